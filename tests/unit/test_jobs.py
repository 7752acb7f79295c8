"""What jobs leave behind and take: folders, events, orders.  Everything here happens in this process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from recovery.cli.screen import in_short
from recovery.errors import DeviceError, UsageError
from recovery.jobs import folder as folders
from recovery.jobs.control import Connection, ControlServer, Order, Status, listen_at
from recovery.jobs.events import EventReader, EventWriter, encode_event
from recovery.jobs.folder import KEPT_ENDED, NewFolder, find_job, is_held, list_jobs, new_folder, write_state


@pytest.fixture(autouse=True)
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECOVERY_JOBS", str(tmp_path / "a" / "jobs"))
    return tmp_path / "a" / "jobs"


def ended(code: int | None = 0) -> NewFolder:
    """A job that is over; without a code: that died."""
    made = new_folder("verify", "latest")
    write_state(made.path, 4711, code)
    made.leave()
    return made


# -- folders


def test_a_job_runs_as_long_as_its_lock_is_held() -> None:
    made = new_folder("capture", "/dev/sda")
    write_state(made.path, 4711)
    job = find_job(None)
    assert (job.id, job.record.kind, job.record.what, job.pid) == ("1", "capture", "/dev/sda", 4711)
    assert (job.running, job.died, job.exit_code) == (True, False, None)
    write_state(made.path, 4711, 3)
    assert find_job("1").running, "it has said how it ends, and has not ended"
    made.leave()
    job = find_job("1")
    assert (job.running, job.died, job.exit_code, job.pid) == (False, False, 3, 4711)


def test_a_job_without_a_last_word_has_died() -> None:
    ended(None)
    job = find_job("1")
    assert (job.running, job.died, job.exit_code) == (False, True, None)


def test_a_job_is_found_by_its_name_or_as_the_only_one_that_runs() -> None:
    with pytest.raises(UsageError, match="no job is running"):
        find_job(None)
    ended()
    first = new_folder("capture", "a")
    assert find_job(None).id == first.path.name == "2"
    second = new_folder("capture", "b")
    with pytest.raises(UsageError, match="2 jobs are running"):
        find_job(None)
    with pytest.raises(UsageError, match="no job 9"):
        find_job("9")
    first.leave()
    second.leave()


def test_the_newest_ended_jobs_are_kept_and_those_that_run(jobs: Path) -> None:
    running = new_folder("capture", "a")
    for _ in range(KEPT_ENDED + 5):
        ended()
    newest = ended()
    names = [job.id for job in list_jobs()]
    assert names[0] == running.path.name
    assert names[-1] == newest.path.name
    assert len(names) == KEPT_ENDED + 2  # one is removed when the next begins
    running.leave()


def test_what_another_run_of_the_system_left_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(folders, "boot_id", lambda: "before")
        ended()
        ended()
    assert list_jobs() == []
    assert ended().path.name == "1"


def test_rubbish_among_the_jobs_is_passed_over(jobs: Path) -> None:
    ended()
    (jobs / "note").touch()
    (jobs / "7").mkdir()
    (jobs / "8").mkdir()
    (jobs / "8" / "job.json").write_text("{}")
    assert [job.id for job in list_jobs()] == ["1"]
    assert ended().path.name == "2"
    assert [job.id for job in list_jobs()] == ["1", "2"]


def test_a_folder_that_is_a_link_is_not_used(jobs: Path, tmp_path: Path) -> None:
    jobs.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    jobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceError, match="somebody else"):
        new_folder("verify", "x")


def test_a_folder_that_others_may_enter_is_closed_to_them(jobs: Path) -> None:
    jobs.mkdir(parents=True)
    jobs.chmod(0o777)
    list_jobs()
    assert jobs.stat().st_mode & 0o777 == 0o700


def test_a_folder_deep_down_can_be_listened_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOVERY_JOBS", str(tmp_path / ("d" * 120)))
    made = new_folder("verify", "x")
    Connection.to(made.path).close()
    made.leave()
    with pytest.raises(DeviceError, match="cannot be reached"):
        Connection.to(made.path)


def test_asking_whether_a_job_runs_does_not_get_in_the_way_of_another_who_asks(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        assert not is_held(tmp_path)


# -- events


@pytest.fixture
def events(tmp_path: Path) -> Iterator[tuple[EventWriter, Path]]:
    path = tmp_path / "events.jsonl"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield EventWriter(file), path
    os.close(file)


def test_a_long_past_is_read_in_pieces_that_end_with_lines(events: tuple[EventWriter, Path]) -> None:
    writer, path = events
    texts = ["x" * length for length in (10, 300_000, 5, 70_000, 1)]
    for text in texts:
        writer.write("text", {"text": text})
    reader, found = EventReader(path), list[list[bytes]]()
    while lines := reader.read(1000):
        found.append(lines)
    reader.close()
    assert [json.loads(line)["text"] for lines in found for line in lines] == texts
    assert len(found) > 1


def test_events_are_followed_in_whole_lines(events: tuple[EventWriter, Path]) -> None:
    writer, path = events
    reader = EventReader(path)
    assert reader.read() == []
    writer.write("text", {"text": "one"})
    writer.write("text", {"text": "two\n"})
    with path.open("ab") as file:
        file.write(b'{"half":')
    assert [json.loads(line) for line in reader.read()] == [
        {"message_type": "text", "text": "one"},
        {"message_type": "text", "text": "two\n"},
    ]
    assert reader.read() == []
    with path.open("ab") as file:
        file.write(b"1}\n")
    assert reader.read() == [b'{"half":1}']
    reader.close()


def test_a_place_without_room_loses_events_and_raises_nothing() -> None:
    with Path("/dev/full").open("wb") as full:
        EventWriter(full.fileno()).write("text", {"text": "lost"})


def test_names_that_are_no_text_can_be_told() -> None:
    event = json.loads(encode_event("error", {"message": "\udcff", "code": 3, "list": ["a", ("\udc80",)]}))
    assert event == {"message_type": "error", "message": "\\udcff", "code": 3, "list": ["a", ["\\udc80"]]}


def test_who_comes_late_sees_no_old_counters_and_only_a_question_that_is_open() -> None:
    def kinds(*said: str) -> list[str]:
        lines = in_short([encode_event(kind, {}) for kind in said])
        return [json.loads(line)["message_type"] for line in lines]

    assert kinds("plan", "text", "question", "answered", "status", "status") == ["plan", "text"]
    assert kinds("status", "plan", "question") == ["plan", "question"]
    assert kinds("question", "answered", "question") == ["question"]
    assert kinds() == []


# -- orders


class Served:
    """A server in this process, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.orders: list[Order] = []
        self.server = ControlServer(self.obey)
        self.server.listen(listen_at(folder))
        self.server.start()

    def obey(self, order: Order) -> Status | None:
        self.orders.append(order)
        return Status(None, asks=True, cancelling=False) if order.do == "status" else None


def wait_for(condition: object) -> None:
    ends = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_orders_arrive_and_a_status_comes_back(tmp_path: Path) -> None:
    served = Served(tmp_path)
    connection = Connection.to(tmp_path)
    connection.send(Order("answer", "sda\n"))
    connection.send(Order("status"))
    replies: list[Status] = []
    wait_for(lambda: replies.extend(connection.receive()) or replies)
    assert replies == [Status(None, asks=True, cancelling=False)]
    assert served.orders == [Order("answer", "sda\n"), Order("status")]
    assert served.server.watched
    connection.close()
    wait_for(lambda: not served.server.watched)


@pytest.mark.parametrize("rubbish", [b"{\n", b'{"do":"rm -rf"}\n', b"\xff\n", b"[]\n", b"x" * 20000, b"\n"], ids=repr)
def test_rubbish_ends_a_connection_and_not_the_server(rubbish: bytes, tmp_path: Path) -> None:
    served = Served(tmp_path)
    bad, good = Connection.to(tmp_path), Connection.to(tmp_path)
    raw = socket.socket(fileno=os.dup(bad.fileno()))
    raw.setblocking(True)
    try:
        raw.sendall(rubbish)
    except OSError:
        assert len(rubbish) > 8192
    wait_for(lambda: bad.receive() or bad.ended)
    good.send(Order("cancel"))
    wait_for(lambda: served.orders)
    assert served.orders == [Order("cancel")]
    raw.close()


def test_many_connections_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    served = Served(tmp_path)
    open_ones = [Connection.to(tmp_path) for _ in range(70)]
    refused = [False] * len(open_ones)

    def count() -> bool:
        for number, connection in enumerate(open_ones):
            connection.receive()
            refused[number] = connection.ended
        return sum(refused) == 70 - 64

    wait_for(count)
    for connection in open_ones:
        connection.close()
    wait_for(lambda: not served.server.watched)
    late = Connection.to(tmp_path)
    late.send(Order("cancel"))
    wait_for(lambda: served.orders)


def test_an_order_is_one_of_four() -> None:
    for do in ("status", "cancel", "stop", "answer"):
        assert msgspec.json.decode(f'{{"do":"{do}"}}', type=Order) == Order(do)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode('{"do":"kill"}', type=Order)


def test_a_screen_outlives_a_job_that_is_gone(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    theirs.close()
    connection.send(Order("cancel"))
    assert connection.receive() == []
    assert connection.ended
    assert threading.active_count() >= 1
