"""The computing thread: runs the waiting frames through one compiled step and returns each stream's predictions."""

import logging
import threading
import time
import traceback
from collections.abc import Callable

import jax
import numpy as np

from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.runs.run import make_result
from ivggt_jax.serve.meters import Meters
from ivggt_jax.serve.slots import Slot, Slots, Taken, Waiting
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import reset, step

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.25
"""How often to check whether to stop while no frame comes."""


class Worker:
    """Feeds the frames of all slots to one state. A stream sees only the processed frames of its own client."""

    def __init__(self, model: Model, state: StreamState, slots: Slots, meters: Meters, age: float):
        """state: fresh, with a stream for each slot.

        age: seconds after which a frame is too old to be processed, unless two steps take longer: a client that sends a frame after
        each answer has to wait for the step of the others.
        """
        self._model, self._state, self._slots, self._meters, self._age = model, state, slots, meters, age
        settings = state.settings
        self._shape = (slots.count, settings.height, settings.width)
        self._budget = settings.cache.total_budget or settings.slots * settings.model.depth
        self._masked = settings.submaps is not None
        self._step_seconds = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)
        self.on_failure: Callable[[], object] = lambda: None
        """Called in the thread when a step raises."""
        self.failed: BaseException | None = None
        """The exception that ended the thread, if any."""

    def start(self) -> None:
        """Compile the step with black frames that no stream sees, then start waiting for frames."""
        nobody = np.zeros(self._shape[0], bool)
        images = np.zeros((*self._shape, 3), np.uint8)
        self._state = reset(self._state, nobody)
        predictions = self._step(images, nobody, np.ones(self._shape, bool))
        black = Frame(images[0], 0, None, "", Fit((1, 1), (1.0, 1.0), (0.0, 0.0)))
        for points in (False, True):
            make_result(black, jax.tree.map(lambda x: x[0], predictions), points)
        self._thread.start()

    def stop(self) -> None:
        """Finish the current step and end the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                now = [
                    (slot, waiting)
                    for slot, waiting in self._slots.take(SECONDS_BETWEEN_LOOKS)
                    if self._fresh(slot, waiting)
                ]
                if now:
                    self._answer(now)
        except BaseException as error:  # in any case, clients must not wait for answers that never come
            # At once, because the server goes on until somebody ends it.
            logger.error("nothing is computed any more:\n%s", "".join(traceback.format_exception(error)))
            self.failed = error
            self.on_failure()

    def _fresh(self, slot: Slot, waiting: Waiting) -> bool:
        """Whether a frame is recent enough; if not, its client is told."""
        if time.monotonic() - waiting.arrived <= max(self._age, 2 * self._step_seconds):
            return True
        slot.answer(waiting)
        return False

    def _answer(self, now: list[tuple[Slot, Waiting]]) -> None:
        """Run one step for these frames, and answer."""
        images, masks = np.zeros((*self._shape, 3), np.uint8), np.ones(self._shape, bool)
        where, begin = np.zeros(self._shape[0], bool), np.zeros(self._shape[0], bool)
        for slot, waiting in now:
            images[slot.number], where[slot.number] = waiting.frame.image, True
            assert waiting.frame.mask is not None
            masks[slot.number] = waiting.frame.mask
            begin[slot.number] = slot.seen == 0
        if begin.any():
            self._state = reset(self._state, begin)
        began = time.monotonic()
        predictions = self._step(images, where, masks)
        self._step_seconds = time.monotonic() - began
        self._meters.step.observe(self._step_seconds)
        lengths = np.asarray(self._state.lengths)
        for slot, waiting in now:
            own = jax.tree.map(lambda x, i=slot.number: x[i], predictions)
            slot.answer(Taken(waiting, slot.seen, own))
            slot.seen += 1
            if self._slots.holds(slot):
                self._meters.cache_fill.labels(slot.number).set(lengths[slot.number].sum() / self._budget)

    def _step(self, images: np.ndarray, where: np.ndarray, masks: np.ndarray) -> Predictions:
        """Predictions on the host, [B,…]."""
        # With or without masks, but always the same, because one program is compiled; without a map masks have no effect.
        self._state, predictions = step(self._model, self._state, images, where, masks if self._masked else None)
        return jax.device_get(predictions)
