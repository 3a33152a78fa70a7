import os
import signal
import threading

import pytest

from acestep.training.interruption import noticing_interrupt


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_interrupt_is_noted_and_the_second_one_interrupts():
    with noticing_interrupt() as interruption:
        assert not interruption.requested
        interrupt()
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    with noticing_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_as_they_are():
    seen: list[object] = []

    def work() -> None:
        with noticing_interrupt() as interruption:
            seen.append((signal.getsignal(signal.SIGINT), interruption.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGINT), False)]
