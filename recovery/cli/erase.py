"""``recovery destination --format``: erase a disk, and mount what was made on it."""

from __future__ import annotations

from pathlib import Path

from recovery.cli.output import Output
from recovery.destination import Destination
from recovery.errors import Cancelled, Refused
from recovery.formatting import FormatPlan, format_disk, plan_format
from recovery.inventory import render, shown


def erase_disk(output: Output, path: Path, *, yes: bool, break_members: bool) -> Destination:
    """Show what will be lost, have it confirmed, and do it.

    Raises Refused, Cancelled, DeviceError, which say what state the disk is in.
    """
    plan = plan_format(path)
    if plan.breaks and not break_members:
        raise Refused(
            f"erasing {plan.path} breaks more than that disk. {' '.join(plan.breaks)}",
            "If that is meant, say so with --break-members.",
        )
    if not output.json:
        output.say("This disk will be erased. All that it holds now will be lost:")
        output.show(render([plan.report]))
        for broken in plan.breaks:
            output.say(f"  BREAKS MORE: {broken}")
        output.say("It gets one partition with an ext4 filesystem.")
    if not yes:
        _confirm(output, plan)
    return format_disk(plan)


def _confirm(output: Output, plan: FormatPlan) -> None:
    untouched = f"{plan.path} is untouched"
    if not output.can_ask:
        raise Refused(f"erasing it was not confirmed, and there is nobody to ask; {untouched}", "Say --yes.")
    name = plan.short_name
    answer = output.ask(f"Type {shown(name)} to erase it, anything else to stop: ").strip()
    if answer not in (name, shown(name)):
        raise Cancelled(f"not confirmed; {untouched}", "Nothing was written.")
