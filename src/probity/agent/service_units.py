"""Unit files that keep the agent running: systemd on Linux, launchd on macOS. Pure text; installing is the command's work."""

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

LAUNCHD_LABEL = "org.probity.agent"


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit file and the commands that make the system notice it."""

    path: Path
    text: str
    activate: tuple[tuple[str, ...], ...]


def systemd_unit(command: tuple[str, ...], *, user: bool, home: Path) -> Unit:
    """Return the unit for systemd.

    KillMode=mixed lets the agent end its children in order and still leaves nothing behind; TimeoutStopSec is longer than its drain.
    """
    start = " ".join(_systemd_quoted(argument) for argument in command)
    target = "default.target" if user else "multi-user.target"
    text = f"""\
[Unit]
Description=Probity agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={start}
Restart=on-failure
RestartSec=5
# 3: the server has revoked this agent; starting again cannot help.
RestartPreventExitStatus=2 3
KillMode=mixed
TimeoutStopSec=60
UMask=0077

[Install]
WantedBy={target}
"""
    control = ("systemctl", "--user") if user else ("systemctl",)
    path = home / ".config/systemd/user/probity-agent.service" if user else Path("/etc/systemd/system/probity-agent.service")
    return Unit(path, text, ((*control, "daemon-reload"), (*control, "enable", "--now", "probity-agent.service")))


def launchd_unit(command: tuple[str, ...], *, user: bool, home: Path, data: Path) -> Unit:
    """Return the property list for launchd; a failed agent is started again, one that ended by itself is not."""
    arguments = "\n".join(f"        <string>{escape(argument)}</string>" for argument in command)
    log = escape(str(data / "agent.log"))
    text = f"""\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
    <key>Label</key>
    <string>{LAUNCHD_LABEL}</string>
    <key>ProgramArguments</key>
    <array>
{arguments}
    </array>
    <key>RunAtLoad</key>
    <true/>
    <key>KeepAlive</key>
    <dict>
        <key>SuccessfulExit</key>
        <false/>
    </dict>
    <key>ThrottleInterval</key>
    <integer>10</integer>
    <key>Umask</key>
    <integer>63</integer>
    <key>StandardErrorPath</key>
    <string>{log}</string>
</dict>
</plist>
"""
    folder = home / "Library/LaunchAgents" if user else Path("/Library/LaunchDaemons")
    path = folder / f"{LAUNCHD_LABEL}.plist"
    return Unit(path, text, (("launchctl", "load", "-w", str(path)),))


def _systemd_quoted(argument: str) -> str:
    """Quote for ExecStart: `%` and `$` start substitutions, and a quoted string knows backslash escapes."""
    text = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if text == "" or any(character in text for character in " \t'\"\\;") else text
