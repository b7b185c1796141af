"""Every reason that an agent gives is explained."""

import re
from pathlib import Path

from probity.agent.command import Reason
from probity.cli.agent import agent

TEXT = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")


def test_every_reason_is_in_the_guide() -> None:
    assert set(re.findall(r"^\| `([a-z_]+)` \|", TEXT, re.MULTILINE)) == {reason.value for reason in Reason}


def test_every_option_that_the_guide_names_exists() -> None:
    options = {option for command in agent.commands.values() for parameter in command.params for option in parameter.opts}
    elsewhere = {"--tag", "--scratch", "--timeout", "--junit", "--artifact"}

    assert set(re.findall(r"`(--[a-z-]+)", TEXT)) <= options | elsewhere
