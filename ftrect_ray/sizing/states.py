"""What DeepSpeed 0.19 keeps for each parameter, on each GPU and host, at ZeRO stages 1, 2 and 3.

Read off its source (runtime/zero: stage_1_and_2.py, stage3.py, partitioned_param_coordinator.py). P numbers in all
weights, T of them trained, N workers, w bytes of a number in training (2 in bf16, 4 in fp32):

* Weights: w·P; stage 3: w·P/N, and small tensors whole.
* fp32 master weights, and AdamW's two moments: 4·T/N and 8·T/N; in fp32 too.
* Gradients have the training format (``data_types.grad_accum_dtype`` is not set, and is then the model's). Stage 1
  keeps w·T until the step. Stages 2 and 3 fill a bucket during the backward pass; whenever it is full, it is reduced
  into w·T/N. That room is made at stage 3 from the start, at stage 2 with the first bucket, anew in each micro-batch.
* The step makes one flat tensor of this rank's gradients, w·T/N, and one in fp32 of that, 4·T/N, while the gradients
  themselves are still there. torch's fused AdamW needs no more. Activations are gone.
* Stage 3 gathers weights before they are used and keeps them while they will be used again within 10⁹ numbers. The
  backward pass comes back by the way the forward pass went: the last 0.5·10⁹ numbers are there when it turns.
* Loading: at stages 1 and 2 every worker reads all weights in fp32 into its host's memory, and brings them to the GPU
  in the training format. At stage 3 rank 0 reads them, and a rank gets its part of one tensor after the other.
* Offload: tensors that GPUs copy from and to are pinned, and PyTorch pins powers of two.

A GPU must hold the fullest of a few moments. At the end of the forward pass all activations are there, and no more of
the gradients than a bucket; when the first is sent, they are fewer; at the step there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ftrect_ray.sizing.architecture import Census
    from ftrect_ray.sizing.walk import Walk

GIB = 2**30
BUCKET = 50_000_000  # numbers, as the engine sets it
PREFETCH = 50_000_000  # numbers, stage3_prefetch_bucket_size
REUSE = 1_000_000_000  # numbers, stage3_max_reuse_distance
SUB_GROUP = 1_000_000_000  # numbers, sub_group_size: what one optimiser step of stage 3 takes at a time
LOADED = 4  # bytes a parameter in the host's memory at stages 1 and 2: fp32 weights, until they are cast
LIBRARIES = 32 * 2**20  # cuBLAS workspace, allocated through PyTorch
CONTEXT = GIB  # CUDA context, NCCL and kernels: beside what PyTorch allocates
FRAGMENTED = 0.05  # of what is allocated: blocks too small to be used again
PROCESS = 4 * GIB  # a worker's libraries and buffers in the host's memory

Offload = Literal["none", "optimizer", "parameters"]


@dataclass(frozen=True)
class Setting:
    """A way to train: the keys of a study's ``training`` that decide what is kept where."""

    zero_stage: Literal[1, 2, 3]
    offload: Offload
    checkpointing: bool


@dataclass(frozen=True)
class Cluster:
    """Equal GPUs on equal hosts; sizes in bytes. ``host_bytes`` None: unknown, and never a reason to refuse."""

    gpus: int
    gpus_per_node: int
    gpu_bytes: int
    host_bytes: int | None


@dataclass(frozen=True)
class Line:
    """One summand: what it is, its bytes, and how they come about."""

    what: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Moment:
    """What is in memory at one time."""

    name: str
    lines: tuple[Line, ...]

    @property
    def bytes(self) -> int:
        return sum(line.bytes for line in self.lines)


@dataclass(frozen=True)
class States:
    """Weights, gradients and optimiser of one model under one setting.

    Attributes
    ----------
    census : Census
    setting : Setting
    workers : int
    width : int
        Bytes of a number in training: 2 or 4.
    accumulates : bool
        A step has several micro-batches.
    """

    census: Census
    setting: Setting
    workers: int
    width: int
    accumulates: bool

    @property
    def own(self) -> int:
        """Numbers of this rank's part of what trains."""
        return -(-self.census.trainable // self.workers)

    @property
    def _on_gpu(self) -> bool:
        return self.setting.offload == "none"

    @property
    def _at_once(self) -> int:
        """Numbers that one call of AdamW moves."""
        return min(self.own, SUB_GROUP) if self.setting.zero_stage == 3 else self.own

    # ------------------------------------------------------------------------------------------------ on a GPU

    def moments(self, walk: Walk, rows: int, tokens: int) -> tuple[Moment, ...]:
        """The times at which a GPU's memory can be fullest, with ``rows`` texts in a micro-batch."""
        always = [*self._weights(), *self._optimizer(), Line("cuBLAS workspace", LIBRARIES, "")]
        shape = f"{rows} × {tokens} tokens"
        kept = Line("activations", walk.kept, f"{shape}, kept for the backward pass")
        working = Line("working set", walk.peak - walk.kept, f"{shape}, of the operations under way")
        turn = [*always, *self._gathered(), kept, working, *self._at_the_turn()]
        moments = [Moment("end of the forward pass", tuple(turn))]
        if self.own and self.setting.zero_stage == 1:
            moments.append(Moment("reduction of the gradients", (*always, *self._whole_gradients(), *self._sent())))
        elif self.own:
            left = max(0.0, 1 - BUCKET / self.census.trainable)
            rest = Line("activations still there", int(left * walk.kept), f"{100 * left:.0f} % of those kept")
            sent = [*always, *self._gathered(), rest, working, *self._at_the_turn(), *self._received(), *self._sent()]
            moments.append(Moment("first gradients sent", tuple(sent)))
        if self.own:
            moments.append(Moment("optimiser step", (*always, *self._step())))
        return tuple(moments)

    def _weights(self) -> list[Line]:
        total, small, w, n = self.census.total, self.census.persistent, self.width, self.workers
        if self.setting.zero_stage < 3:
            return [Line("weights", w * total, f"{_count(total)} × {w} B")]
        lines = []
        if self.setting.offload != "parameters":
            lines.append(Line("weights, this rank's part", w * total // n, f"{_count(total)} × {w} B / {n}"))
        return [*lines, Line("small weights, whole", w * small, f"{_count(small)} × {w} B")]

    def _optimizer(self) -> list[Line]:
        if not self._on_gpu or not self.own:
            return []
        part = f"{_count(self.census.trainable)} × %d B / {self.workers}"
        return [
            Line("fp32 master weights", 4 * self.own, part % 4),
            Line("AdamW's two moments", 8 * self.own, part % 8),
        ]

    def _at_the_turn(self) -> list[Line]:
        """Gradients and their room when the first of this micro-batch is there, and all activations still are."""
        if not self.own:
            return []
        w, stage, trainable = self.width, self.setting.zero_stage, self.census.trainable
        lines = [Line("bucket of gradients", w * BUCKET, f"{_count(BUCKET)} × {w} B")]
        if stage == 1 and self.accumulates:
            lines.append(Line("gradients of earlier micro-batches", w * trainable, f"{_count(trainable)} × {w} B"))
        if stage == 2 and self.accumulates and self._on_gpu:
            lines.append(Line("gradients of earlier micro-batches", w * self.own, f"{_count(self.own)} × {w} B"))
        if stage == 3 and self._on_gpu:
            lines.append(Line("gradients, this rank's part", w * self.own, f"{_count(self.own)} × {w} B"))
        if stage < 3 and not self._on_gpu:
            largest = self.census.largest
            lines.append(Line("a gradient on its way to the host", w * largest, f"{_count(largest)} × {w} B"))
        return lines

    def _whole_gradients(self) -> list[Line]:
        """Stage 1 at the end of the backward pass, when its bucket is full of the first of all gradients."""
        w, trainable = self.width, self.census.trainable
        rest = trainable - min(trainable, BUCKET)
        return [
            Line("gradients not yet in the bucket", w * rest, f"{_count(rest)} × {w} B"),
            Line("bucket of gradients", w * BUCKET, f"{_count(BUCKET)} × {w} B"),
            *self._received(),
        ]

    def _received(self) -> list[Line]:
        """This rank's part of the gradients, reduced; stage 3 has had room for it all along."""
        if self.setting.zero_stage == 3 or not self._on_gpu:
            return []
        return [Line("gradients, this rank's part", self.width * self.own, f"{_count(self.own)} × {self.width} B")]

    def _sent(self) -> list[Line]:
        """A bucket in the order of the ranks, where it is not so already."""
        if self.workers == 1 and self.setting.zero_stage < 3:
            return []
        sent = min(self.census.trainable, max(BUCKET, self.census.largest))
        return [Line("copy of the bucket to send", self.width * sent, f"{_count(sent)} × {self.width} B")]

    def _gathered(self) -> list[Line]:
        """Weights that stage 3 has fetched and not yet let go of."""
        alone = self.workers == 1 and self.setting.offload != "parameters"
        if self.setting.zero_stage < 3 or alone:
            return []
        large = self.census.total - self.census.persistent
        stays = large if self.accumulates and large <= REUSE else REUSE // 2
        live = min(large, stays + PREFETCH + self.census.widest)
        return [Line("weights gathered", self.width * live, f"{_count(live)} × {self.width} B")]

    def _step(self) -> list[Line]:
        if not self._on_gpu:
            return []
        w, own, at_once = self.width, self.own, self._at_once
        flat = Line("the same, flat", w * at_once, f"{_count(at_once)} × {w} B")
        return [
            Line("gradients, this rank's part", w * own, f"{_count(own)} × {w} B"),
            *([flat] if w < 4 else []),
            Line("the same in fp32", 4 * at_once, f"{_count(at_once)} × 4 B"),
        ]

    # ------------------------------------------------------------------------------------- on a host, and on disk

    def host(self, workers_here: int) -> tuple[Moment, ...]:
        """The times at which the memory of a host with ``workers_here`` workers can be fullest."""
        each = f" × {workers_here} worker{'s' if workers_here > 1 else ''}"
        base = Line("processes", PROCESS * workers_here, f"{PROCESS // GIB} GiB{each}")
        total = self.census.total
        if self.setting.zero_stage < 3:
            loaded = Line("weights in fp32", LOADED * total * workers_here, f"{_count(total)} × {LOADED} B{each}")
        else:
            loaded = Line("weights as they are read", self.width * total, f"{_count(total)} × {self.width} B, rank 0")
        best = Line("best weights so far", self.width * self.census.trainable, "of rank 0")
        training = [base, *self._offloaded(workers_here), *([best] if self.own else [])]
        return Moment("loading", (base, loaded)), Moment("training", tuple(training))

    def _offloaded(self, workers_here: int) -> list[Line]:
        if self.setting.offload == "none":
            return []
        w, own, stage = self.width, self.own, self.setting.zero_stage
        parts = [
            ("fp32 master weights", _pinned(4 * own) if stage < 3 else 4 * own),
            ("AdamW's two moments", 8 * own),
            ("gradients in fp32", _pinned(4 * own)),
            ("gradients as they come", _pinned(w * own)),
        ]
        if stage < 3:
            parts.append(("new weights on their way to the GPU", _pinned(w * own)))
        if self.setting.offload == "parameters":
            frozen = (self.census.total - self.census.trainable) // self.workers
            parts.append(("weights", _pinned(w * own) + w * frozen))
        each = f" × {workers_here} worker{'s' if workers_here > 1 else ''}"
        return [Line(what, size * workers_here, f"{_gib(size)} GiB{each}") for what, size in parts]

    def disk(self, whole: bool) -> tuple[Line, ...]:
        """A checkpoint of all ranks, and the finished model, ``whole`` or what was trained; of a head, nothing."""
        if not self.own:
            return ()
        trainable, w = self.census.trainable, self.width
        stored = self.census.total if whole else trainable
        return (
            Line(
                "checkpoint, each rank", 12 * self.own, f"{_count(trainable)} × 12 B / {self.workers}: fp32 and moments"
            ),
            Line(
                "checkpoint, once", 2 * w * trainable, f"{_count(trainable)} × {w} B × 2: weights, best weights so far"
            ),
            Line("finished model", w * stored, f"{_count(stored)} × {w} B"),
        )


def reserve(allocated: int) -> Line:
    """What a GPU must have beside what PyTorch allocates."""
    size = CONTEXT + int(FRAGMENTED * allocated)
    return Line("framework reserve", size, f"1 GiB (CUDA, NCCL) + {100 * FRAGMENTED:.0f} % of the above (fragments)")


def _pinned(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0


def _count(numbers: int) -> str:
    return f"{numbers / 1e6:,.1f} M"


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}"
