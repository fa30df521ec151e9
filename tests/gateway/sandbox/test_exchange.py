"""What happens to connections, seen from their other end."""

import re
import socket

from sandbox_process import SandboxProcess

LAST_CHUNK = b"\r\n0\r\n\r\n"


def story(directives: str, *, stream: bool = True) -> dict[str, object]:
    messages = [{"role": "user", "content": f"{directives} [[slow 0]] a story"}]
    return {"model": "sandbox-small", "stream": stream, "messages": messages}


def read_to_the_end(connection: socket.socket) -> tuple[bytes, bool]:
    """All that comes, and whether the connection ended in a reset."""
    received = b""
    with connection:
        while True:
            try:
                data = connection.recv(65_536)
            except ConnectionResetError:
                return received, True
            if not data:
                return received, False
            received += data


def events(received: bytes) -> list[bytes]:
    """The events that came whole."""
    return re.findall(rb"data: [^\n]+\n\n", received)


def test_head_and_body_arrive_together(sandbox: SandboxProcess) -> None:
    with sandbox.raw(story("", stream=False)) as connection:
        head, body = connection.recv(65_536).split(b"\r\n\r\n")

    assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"


def test_a_cut_stream_ends_without_its_framing(sandbox: SandboxProcess) -> None:
    received, was_reset = read_to_the_end(sandbox.raw(story("[[cut 3]]")))

    assert len(events(received)) == received.count(b"data: ") == 3
    assert not received.endswith(LAST_CHUNK)
    assert not was_reset


def test_a_stream_can_be_cut_before_its_first_byte(sandbox: SandboxProcess) -> None:
    assert read_to_the_end(sandbox.raw(story("[[cut 0]]"))) == (b"", False)


def test_a_stream_can_be_cut_in_the_middle_of_an_event(sandbox: SandboxProcess) -> None:
    received, _ = read_to_the_end(sandbox.raw(story("[[half 3]]")))

    assert (len(events(received)), received.count(b"data: ")) == (3, 4)
    assert not received.endswith(LAST_CHUNK)


def test_a_stream_can_be_reset(sandbox: SandboxProcess) -> None:
    received, was_reset = read_to_the_end(sandbox.raw(story("[[reset 3]]")))

    assert len(events(received)) == 3
    assert was_reset


def test_a_truncated_stream_ends_as_if_all_was_well(sandbox: SandboxProcess) -> None:
    with sandbox.raw(story("[[truncate 3]]")) as connection:
        received = b""
        while not received.endswith(LAST_CHUNK):
            received += connection.recv(65_536)

    assert len(events(received)) == 3
    assert b"[DONE]" not in received
    assert received.count(b'"finish_reason":null') == 3


def test_a_whole_answer_can_be_cut_reset_or_truncated(sandbox: SandboxProcess) -> None:
    for directive, resets in (("[[cut 1]]", False), ("[[reset 1]]", True)):
        received, was_reset = read_to_the_end(sandbox.raw(story(directive, stream=False)))
        head, body = received.split(b"\r\n\r\n")
        promised = int(head.partition(b"content-length: ")[2].split()[0])
        assert (len(body), was_reset) == (promised // 2, resets)

    assert read_to_the_end(sandbox.raw(story("[[cut 0]]", stream=False))) == (b"", False)
    truncated = sandbox.post(story("[[truncate 1]]", stream=False))
    assert truncated.status_code == 200
    assert not truncated.text.endswith("}")


def test_a_server_that_cut_one_connection_serves_the_next(sandbox: SandboxProcess) -> None:
    read_to_the_end(sandbox.raw(story("[[reset 1]]")))

    assert sandbox.post(story("", stream=False)).status_code == 200
