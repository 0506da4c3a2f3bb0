"""three.js in headless Chromium: what a browser makes of a glTF file, as a picture and as numbers.

    python tests/extras/three_js.py people.glb people.jpg --times 0 0.2 0.4

Needs Chromium, Node.js with npm, and the npm registry for three.js.
"""

from __future__ import annotations

import argparse
import html
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from pathlib import Path

from browser import find_browser

THREE = "three@0.170"
PAGE = """<!doctype html><html><body style="margin:0"><pre id="out" hidden></pre>
<script type="importmap">{"imports": {"three": "./node_modules/three/build/three.module.js"}}</script>
<script type="module">
import * as THREE from 'three';
import {GLTFLoader} from './node_modules/three/examples/jsm/loaders/GLTFLoader.js';
const {times, size, from, to} = SETTINGS;
const renderer = new THREE.WebGLRenderer({antialias: true, preserveDrawingBuffer: true});
renderer.setSize(size * times.length, size);
renderer.setScissorTest(true);
document.body.appendChild(renderer.domElement);
const report = {frames: []};
new GLTFLoader().load('./file.glb', gltf => {
  const scene = new THREE.Scene();
  scene.background = new THREE.Color(0xe6e6e6);
  const sun = new THREE.DirectionalLight(0xffffff, 1.2);
  sun.position.set(2, 4, 3);
  scene.add(gltf.scene, sun, new THREE.HemisphereLight(0xffffff, 0x909090, 2.3), new THREE.GridHelper(6, 12));
  const camera = new THREE.PerspectiveCamera(32, 1, 0.1, 50);
  camera.position.set(...from);
  camera.lookAt(...to);
  const mixer = new THREE.AnimationMixer(gltf.scene);
  gltf.animations.forEach(clip => mixer.clipAction(clip).play());
  report.animations = gltf.animations.length;
  times.forEach((time, index) => {
    mixer.setTime(time);
    gltf.scene.updateMatrixWorld(true);
    const frame = {};
    gltf.scene.traverse(node => {
      if (!node.isSkinnedMesh) return;
      node.frustumCulled = false;
      node.skeleton.update();
      const place = bone => new THREE.Vector3().setFromMatrixPosition(bone.matrixWorld).toArray();
      const bones = node.skeleton.bones.map(place);
      const vertices = [];
      for (let v = 0; v < node.geometry.attributes.position.count; v += 97) {
        vertices.push(node.getVertexPosition(v, new THREE.Vector3()).toArray());
      }
      frame[node.name] = {bones, vertices};
    });
    report.frames.push(frame);
    renderer.setViewport(index * size, 0, size, size);
    renderer.setScissor(index * size, 0, size, size);
    renderer.render(scene, camera);
  });
  document.getElementById('out').textContent = JSON.stringify(report);
}, undefined, error => { document.getElementById('out').textContent = JSON.stringify({error: String(error)}); });
</script></body></html>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


def npm_install(folder: Path, *packages: str) -> str | None:
    """Installs packages into a folder; returns what went wrong, or None."""
    if shutil.which("npm") is None:
        return "npm is not installed (Debian: apt-get install nodejs npm)"
    (folder / "package.json").write_text('{"private": true}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--silent", *packages]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        return "the npm registry does not answer"
    return None if done.returncode == 0 else f"npm install failed: {(done.stderr or done.stdout).strip()[-300:]}"


def look(
    glb: Path, folder: Path, times: list[float], picture: Path | None = None, size: int = 480,
    camera: tuple[float, float, float] = (2.2, 1.5, 2.6), target: tuple[float, float, float] = (0.0, 0.85, 0.0),
) -> dict:  # fmt: skip
    """Loads a file in the browser; `folder` holds three.js (`npm_install`).

    Args:
        times: seconds of the animation.
        picture: PNG to write, one view a time beside each other.

    Returns:
        {"animations": count, "frames": [{mesh: {"bones": J x 3, "vertices": every 97th}}]} in world coordinates.
    """
    settings = json.dumps({"times": times, "size": size, "from": camera, "to": target})
    shutil.copy(glb, folder / "file.glb")
    (folder / "index.html").write_text(PAGE.replace("SETTINGS", settings))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = [
        find_browser(), "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        f"--window-size={size * len(times)},{size}", "--hide-scrollbars", "--virtual-time-budget=60000",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{server.server_port}/index.html"
    try:
        with tempfile.TemporaryDirectory() as profile:
            base.append(f"--user-data-dir={profile}")
            done = subprocess.run([*base, "--dump-dom", url], capture_output=True, text=True, timeout=180)
            if picture is not None:
                subprocess.run([*base, f"--screenshot={picture}", url], capture_output=True, timeout=180, check=True)
    finally:
        server.shutdown()
        server.server_close()
    found = re.search(r'<pre id="out"[^>]*>(.*?)</pre>', done.stdout, re.DOTALL)
    if found is None or not found[1]:
        raise RuntimeError(f"the page did not finish: {done.stderr[-500:]}")
    return json.loads(html.unescape(found[1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A picture of a glTF file, drawn by three.js.")
    parser.add_argument("glb", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--times", type=float, nargs="+", default=[0.0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if trouble := npm_install(Path(name), THREE):
            raise SystemExit(trouble)
        look(options.glb, Path(name), options.times, Path(name) / "picture.png")
        from avatarpose.io import read_image, write_image

        write_image(options.out, read_image(Path(name) / "picture.png"), quality=88)
