"""efibootmgr's words, as several versions and firmwares print them, and the lines that are built for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.devices.efi import BootEntry, creating, ordering, parse_boot_list

GUID = "1b4ab0c2-9d3e-4f5a-8b6c-7d8e9f0a1b2c"
BCD = "57494e444f5753000100000088000000780000004200430044004f0042004a00450043005400"

#: What different versions print for the same list.
SINCE_18 = rf"""BootCurrent: 0001
Timeout: 0 seconds
BootOrder: 0001,0004,0000,0002,2001
Boot0000* UiApp	FvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)
      dp: 04 07 14 00 c9 bd b8 7c / 04 06 14 00 21 aa 2c 46 / 7f ff 04 00
Boot0001* debian	HD(1,GPT,{GUID},0x800,0x100000)/\EFI\debian\shimx64.efi
      dp: 04 01 2a 00 01 00 00 00 / 04 04 36 00 5c 00 45 00 / 7f ff 04 00
Boot0002* UEFI QEMU HARDDISK QM00001 	PciRoot(0x0)/Pci(0x1f,0x2)/Sata(0,65535,0)4eac0881119f594d850ee21a522c59b2
      dp: 02 01 0c 00 d0 41 03 0a 00 00 00 00 / 01 01 06 00 02 1f / 7f ff 04 00
    data: 4e ac 08 81 11 9f 59 4d 85 0e e2 1a 52 2c 59 b2
Boot0004* Windows Boot Manager	HD(1,GPT,{GUID},0x800,0x100000)/\EFI\Microsoft\Boot\bootmgfw.efi{BCD}
      dp: 04 01 2a 00 / 7f ff 04 00
    data: 57 49 4e 44 4f 57 53 00
Boot0005  Old one	HD(2,GPT,ffffffff-9d3e-4f5a-8b6c-7d8e9f0a1b2c,0x800,0x100000)/\EFI\old\grubx64.efi
Boot2001* EFI USB Device	RC
"""
#: Recorded on Debian 13 under OVMF.
DEBIAN_13 = rf"""BootCurrent: 0001
Timeout: 0 seconds
BootOrder: 0001,0004,0002
Boot0001* debian	HD(1,GPT,{GUID},0x800,0xa000)/File(\EFI\debian\shimx64.efi)
      dp: 04 01 2a 00 01 00 00 00 00 08 00 00 00 00 00 00 00 a0 00 00 00 00 00 00 / 7f ff 04 00
Boot0002* UEFI QEMU HARDDISK SRC 	PciRoot(0x0)/Pci(0x1f,0x2)/Sata(1,65535,0){{auto_created_boot_option}}
      dp: 02 01 0c 00 d0 41 03 0a 00 00 00 00 / 01 01 06 00 02 1f / 7f ff 04 00
    data: 4e ac 08 81 11 9f 59 4d 85 0e e2 1a 52 2c 59 b2
Boot0004* Windows Boot Manager	HD(1,GPT,{GUID},0x800,0xa000)/File(\EFI\Microsoft\Boot\bootmgfw.efi){BCD}
      dp: 04 01 2a 00 01 00 00 00 00 08 00 00 00 00 00 00 00 a0 00 00 00 00 00 00 / 7f ff 04 00
    data: 57 49 4e 00
Boot0005  Old one	HD(2,GPT,ffffffff-9d3e-4f5a-8b6c-7d8e9f0a1b2c,0x800,0xa000)/File(\EFI\old\grubx64.efi)
"""
UNTIL_17 = rf"""BootCurrent: 0001
Timeout: 1 seconds
BootOrder: 0001,0004,0000
Boot0000* EFI Network	PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400123456,1)/IPv4(0.0.0.00.0.0.0,0,0)N.....YM....R,Y.
Boot0001* debian	HD(1,GPT,{GUID},0x800,0x100000)/File(\EFI\debian\shimx64.efi)
Boot0004* Windows Boot Manager	HD(1,GPT,{GUID},0x800,0x100000)/File(\EFI\Microsoft\Boot\bootmgfw.efi)WINDOWS.........x...B.C.D.O.B.J.E.C.T.=.{{.9.d.e.a.8.6.2.c.-.
Boot0005  Old one	HD(2,GPT,ffffffff-9d3e-4f5a-8b6c-7d8e9f0a1b2c,0x800,0x100000)/File(\EFI\old\grubx64.efi)
"""  # noqa: E501
BEFORE_13 = rf"""BootCurrent: 0001
BootOrder: 0001,0004
Boot0000* CD/DVD Drive 	BIOS(3,0,00)AMGOAMNO........o.T.S.S.T.c.o.r.p
Boot0001* debian	HD(1,800,100000,{GUID.upper()})File(\EFI\debian\shimx64.efi)
Boot0004* Windows Boot Manager	ACPI(a0341d0,0)PCI(1f,2)03120a00010000000000HD(1,800,100000,{GUID})File(\EFI\Microsoft\Boot\bootmgfw.efi)WINDOWS....
Boot0005  Old one	HD(2,800,100000,ffffffff-9d3e-4f5a-8b6c-7d8e9f0a1b2c)File(\EFI\old\grubx64.efi)
"""  # noqa: E501


@pytest.mark.parametrize("text", [SINCE_18, DEBIAN_13, UNTIL_17, BEFORE_13], ids=["18", "debian-13", "17", "12"])
def test_entries_for_files_on_a_disk_are_read_whatever_the_version(text: str) -> None:
    listed = parse_boot_list(text.splitlines())
    assert listed.order[:2] == (1, 4)
    assert [(e.number, e.label, e.active, e.partition_number, e.loader) for e in listed.entries] == [
        (1, "debian", True, 1, r"\EFI\debian\shimx64.efi"),
        (4, "Windows Boot Manager", True, 1, r"\EFI\Microsoft\Boot\bootmgfw.efi"),
        (5, "Old one", False, 2, r"\EFI\old\grubx64.efi"),
    ]
    assert [entry.partition_uuid for entry in listed.entries[:2]] == [GUID, GUID]
    assert listed.entries[0].data == b""
    windows = listed.entries[1].data
    assert windows == (bytes.fromhex(BCD) if text in (SINCE_18, DEBIAN_13) else None)


def test_a_listing_whose_tabs_were_lost_is_read() -> None:
    listed = parse_boot_list(SINCE_18.replace("\t", "  ").splitlines())
    assert [entry.label for entry in listed.entries] == ["debian", "Windows Boot Manager", "Old one"]


def test_labels_and_paths_may_hold_anything() -> None:
    line = (
        rf"Boot00AB* HD(1,GPT) \EFI\x.efi: ümläut (2)	HD(3,GPT,{GUID},0x800,0x1)/\EFI\my.efi.d\a b (1).EFI0000424f"
    )
    (entry,) = parse_boot_list([line]).entries
    assert entry.number == 0xAB
    assert entry.label == r"HD(1,GPT) \EFI\x.efi: ümläut (2)"
    assert (entry.loader, entry.data) == (r"\EFI\my.efi.d\a b (1).EFI", b"\0\0BO")


def test_entries_of_mbr_disks_and_of_none_are_left_out() -> None:
    lines = [
        r"Boot0000* a	HD(1,MBR,0x12345678,0x800,0x1000)/\EFI\debian\shimx64.efi",
        rf"Boot0001* b	HD(1,GPT,{GUID},0x800,0x1000)",
        "Boot0002* c	VenHw(99e275e7-75a0-4b37-a2e6-c5385e6c00cb)",
        "Boot0003* d",
        "BootOrder: ",
        "",
    ]
    assert parse_boot_list(lines).entries == ()


@given(st.lists(st.text(max_size=60)), st.sampled_from([SINCE_18, UNTIL_17, BEFORE_13]), st.integers(0, 999))
def test_no_listing_stops_the_program(lines: list[str], text: str, cut: int) -> None:
    parse_boot_list(lines)
    parse_boot_list(["Boot0001* " + line for line in lines])
    parse_boot_list([f"Boot0001* x\tHD(1,GPT,{GUID},0x1,0x1)/\\{line}.efi" for line in lines])
    assert len(parse_boot_list(text[:cut].splitlines()).entries) <= 3


def test_what_no_program_can_be_given_or_is_absurdly_long_is_left_out() -> None:
    start = f"\tHD(1,GPT,{GUID},0x800,0x1)/"
    lines = [
        rf"Boot0001* a{chr(0)}{start}\EFI\a.efi",
        f"Boot0002* {chr(0xD800)}{start}\\EFI\\a.efi",
        f"Boot0003* a{start}\\" + ".efi" * 20000,
    ]
    assert parse_boot_list(lines).entries == ()
    assert len(parse_boot_list([f"Boot0004* a{start}\\x.efi"] * 100_000).entries) <= 1000


def test_entries_come_in_the_order_in_which_they_are_tried() -> None:
    listed = parse_boot_list(SINCE_18.replace("BootOrder: 0001,0004", "BootOrder: 0004,0001").splitlines())
    assert [entry.number for entry in listed.in_order()] == [4, 1, 5]


def test_the_lines_for_efibootmgr() -> None:
    entry = BootEntry(1, "de'bian", True, 1, GUID, r"\EFI\debian\shimx64.efi")
    assert creating(Path("/dev/nvme0n1"), entry) == [
        "efibootmgr",
        "--quiet",
        "--create-only",
        "--disk=/dev/nvme0n1",
        "--part=1",
        "--label=de'bian",
        r"--loader=\EFI\debian\shimx64.efi",
    ]
    handed = BootEntry(1, "w", True, 1, GUID, r"\w.efi", b"\0B")
    assert creating(Path("/dev/sda"), handed)[-1] == "--append-binary-args=-"
    assert ordering([1, 0xAB, 0x2001]) == ["efibootmgr", "--quiet", "--bootorder=0001,00AB,2001"]


def test_the_same_file_of_the_same_partition_is_the_same_whatever_its_name() -> None:
    entry = BootEntry(1, "a", True, 1, GUID, r"\EFI\debian\shimx64.efi")
    assert entry.starts_the_same(BootEntry(7, "b", False, 1, GUID, r"\EFI\DEBIAN\SHIMX64.EFI"))
    assert not entry.starts_the_same(BootEntry(1, "a", True, 1, GUID, r"\EFI\debian\grubx64.efi"))
    assert not entry.starts_the_same(BootEntry(1, "a", True, 1, GUID[::-1], r"\EFI\debian\shimx64.efi"))
