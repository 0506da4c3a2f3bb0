"""What can be known of a capture before hours are spent on it: `avatarpose check`."""

from avatarpose.check.driver import Report, Settings, check, print_report
from avatarpose.check.findings import Finding, Level

__all__ = ["Finding", "Level", "Report", "Settings", "check", "print_report"]
