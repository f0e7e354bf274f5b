"""Whose turn it is to use a model: one thread's at a time, in the order in which they asked.

The turn belongs to the model, not to an `Explainer`: two of them may share one. Within its turn a thread may ask again
(calls inside calls), and it may step aside for those who wait.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..errors import InputError
from ..interrupts import check

POLL_SECONDS = 0.1
"""How often one who waits looks for Ctrl-C."""
PATIENCE_SECONDS = 30.0
"""After this a wait is announced by a warning."""
FORK_SECONDS = 10.0
"""How long a fork waits for the threads that use models."""


class _Waiter:
    """One thread in the queue; its gate opens when the turn has been handed to it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.gate = threading.Lock()
        self.gate.acquire()


class Turn:
    """Of one model. A context manager; the same thread may enter it again.

    Attributes:
        calling: a call of this package is at work in this turn, and may be inside the model's own code.
        evaluating: the model is in eval mode for this turn; `training` are the modules that are in train mode else.
        lost: this process was forked while another thread used the model, which stays as that thread left it.
    """

    def __init__(self) -> None:
        self.calling = self.evaluating = False
        self.training: list[nn.Module] = []
        self.lost = False
        self._mutex = threading.Lock()  # never held while something waits
        self._queue: deque[_Waiter] = deque()
        self._owner: int | None = None
        self._depth = 0

    @property
    def mine(self) -> bool:
        """Whether the thread that asks has the turn."""
        return self._owner == threading.get_ident()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._queue)

    def __enter__(self) -> Turn:
        self.take()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def take(self, waiting: Callable[[], None] = lambda: None, *, within: float | None = None) -> bool:
        """Wait for the turn; False if it did not come in time.

        Args:
            waiting: called again and again while there is something to wait for; what it raises ends the wait.
            within: seconds, None for as long as it takes.

        Raises:
            InputError: the turn was lost in a fork, or could never come.
        """
        if self.mine:
            self._depth += 1
            return True
        if self.lost:
            raise InputError(
                "model: this process was forked while another thread of its parent used the model, which stays as that "
                "thread left it. Load the model in this process, or start processes with the method 'spawn'."
            )
        with self._mutex:
            if self._owner is None:
                self._owner, self._depth = threading.get_ident(), 1
                return True
            waiter = _Waiter()
            self._queue.append(waiter)
        _WAITING[waiter.thread] = self
        try:
            if self._wait(waiter, waiting, within):
                return True
        except BaseException:
            self._leave_queue(waiter)
            raise
        finally:
            del _WAITING[waiter.thread]
        self._leave_queue(waiter)
        return False

    def release(self) -> None:
        """Give it to who waits longest, once it was released as often as it was taken."""
        assert self.mine, "only who has the turn can give it away"
        if self._depth > 1:
            self._depth -= 1
            return
        with self._mutex:
            self._hand_over()

    def give_up(self) -> int:
        """Release it at once, however often it was taken; returns how often, for `take_back`."""
        depth, self._depth = self._depth, 1
        self.release()
        return depth

    def take_back(self, depth: int) -> None:
        """Wait for it again, taken as often as it was."""
        self.take()
        self._depth = depth

    def _wait(self, waiter: _Waiter, waiting: Callable[[], None], within: float | None) -> bool:
        start, announced = time.monotonic(), False
        while True:
            check()
            waiting()
            if self._waits_for_me():
                raise InputError(
                    "model: the thread that uses it waits for a model that this thread uses, so neither would ever go "
                    "on. Call for one model behind the other, not from its progress callback or inside its turn()."
                )
            waited = time.monotonic() - start
            if within is not None and waited >= within:
                return False
            if not announced and waited >= PATIENCE_SECONDS:
                announced = True
                message = f"waiting for the model for {waited:.0f} s; it is the turn of thread {self._owner_name()!r}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            if waiter.gate.acquire(timeout=POLL_SECONDS):
                return True

    def _waits_for_me(self) -> bool:
        """Whether the thread that has this turn waits, perhaps by way of others, for one that the caller has."""
        turn, links = self, []
        for _ in range(len(_WAITING)):  # others may wait in a circle of their own
            owner = turn._owner
            following = None if owner is None else _WAITING.get(owner)
            if following is None or turn.mine:  # it goes on, or the turn has just come
                return False
            links.append((turn, owner))
            turn = following
            if turn.mine:
                # Who waits keeps what it has: if nothing has changed meanwhile, nothing ever will.
                return turn is not self and all(each._owner == of_each for each, of_each in links)
        return False

    def _leave_queue(self, waiter: _Waiter) -> None:
        with self._mutex:
            if waiter in self._queue:
                self._queue.remove(waiter)
            else:  # the turn came just now
                self._hand_over()

    def _hand_over(self) -> None:
        if self._queue:
            waiter = self._queue.popleft()
            self._owner, self._depth = waiter.thread, 1
            waiter.gate.release()
        else:
            self._owner, self._depth = None, 0

    def _owner_name(self) -> str:
        owner = self._owner  # it may change while we look
        return next((thread.name for thread in threading.enumerate() if thread.ident == owner), str(owner))

    def _begin_anew(self, *, held: bool) -> None:
        """In a forked child: nobody waits; held by the thread that forked, and only taken for the fork, or lost."""
        self._mutex = threading.Lock()
        self._queue.clear()
        if held:
            self.release()
        elif not self.mine and self._owner is not None:
            self.lost, self._owner, self._depth = True, None, 0


_WAITING: dict[int, Turn] = {}  # by thread, what it waits for
_TURNS: WeakKeyDictionary[nn.Module, Turn] = WeakKeyDictionary()
_TURNS_LOCK = threading.Lock()
_HELD_AT_FORK: list[Any] = [_TURNS_LOCK]


def turn_of(model: nn.Module) -> Turn:
    """The turn of a model, the same for everyone who has the model."""
    turn = _TURNS.get(model)
    if turn is None:
        with _TURNS_LOCK:
            turn = _TURNS.setdefault(model, Turn())
    return turn


def step_aside(model: nn.Module, exchange: Callable[[], None] = lambda: None) -> None:
    """Let those go first who wait for the model, if any do; they find its train flags as the caller had them.

    Args:
        model: the thread that calls has its turn.
        exchange: called before and after, to put back what else was changed on the model, and change it again.
    """
    turn = turn_of(model)
    if not turn.wanted:
        return
    exchange()
    for module in turn.training:
        module.training = True
    before = turn.calling, turn.evaluating
    turn.calling = turn.evaluating = False
    turn.take_back(turn.give_up())
    turn.calling, turn.evaluating = before
    turn.training[:] = [module for module in model.modules() if module.training]
    for module in turn.training:
        module.training = False
    exchange()


def held_at_fork(lock: threading.Lock) -> threading.Lock:
    """The lock, taken around every fork of this process, so that no child finds it taken by a thread that it lacks."""
    _HELD_AT_FORK.append(lock)
    return lock


_taken_for_fork: dict[int, list[Turn]] = {}  # by thread


def _before_fork() -> None:
    until = time.monotonic() + FORK_SECONDS
    taken = _taken_for_fork.setdefault(threading.get_ident(), [])
    with _TURNS_LOCK:
        turns = list(_TURNS.values())
    for turn in turns:
        with suppress(InputError):  # it was lost, or cannot come: then the child is told
            if turn.take(within=max(0.0, until - time.monotonic())):
                taken.append(turn)
    for lock in _HELD_AT_FORK:
        lock.acquire()


def _after_fork_in_parent() -> None:
    for lock in _HELD_AT_FORK:
        lock.release()
    for turn in _taken_for_fork.pop(threading.get_ident()):
        turn.release()


def _after_fork_in_child() -> None:
    for lock in _HELD_AT_FORK:
        lock.release()
    taken = _taken_for_fork.pop(threading.get_ident())
    for turn in list(_TURNS.values()):
        turn._begin_anew(held=turn in taken)
    _taken_for_fork.clear()
    _WAITING.clear()


if hasattr(os, "register_at_fork"):  # where there is no fork, there is nothing to do
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
