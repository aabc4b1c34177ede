"""Measure the project on a GPU with one command.

    python benchmarks/gpu.py --out gpu.json --seconds 470

The parts run in the order of their value. Each part is a process with a time limit of its own, so
that a crash or a hang costs only that part, and the JSON file is rewritten after each part.
`--parts train,paint` selects parts. `--tiny` runs all parts that a CPU can, at a tiny size.
Needs neither DVC nor MLflow.
"""

import argparse
import collections
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("ATELIER_ROOT", Path(__file__).resolve().parents[1]))
# Part: seconds after which it is stopped.
LIMITS = {
    "machine": 40, "train": 90, "fused": 120, "syncs": 40, "kernels": 60, "paint": 70,
    "resume": 60, "variants": 120, "numbers": 50, "memory": 50, "bench_train": 120,
    "bench_style": 150,
    # The last one: 31 s on an H200, but over 150 s the first time, before kernels were compiled.
    "tests": 400,
}  # fmt: skip
# Estimates for an H100, made before the first run on a GPU.
PREDICTIONS = {
    "train": "55,000 images/s captured (38,000 to 75,000), 25,000 to 35,000 eager",
    "kernels": "310 kernels and 2.0 ms in a captured step",
    "syncs": "no wait in a step or in an evaluation",
    "paint": "0.6 to 1.0 s for `photo` at 512 pixels",
    "resume": "equal within rounding",
    "variants": "70,000 images/s at batch 256, 80,000 to 95,000 at 1,024",
    "numbers": "differences of TF32's rounding",
    "memory": "one sentence; the current stream restored",
    "fused": "66,000 images/s with `auto`, 51,000 with `none` (H200, a prototype)",
}
LEAST_SECONDS = 15  # less time is not worth starting a part
TINY = False
Results = dict[str, Any]


def device() -> Any:
    """Return the device to measure."""
    import torch

    return torch.device("cpu" if TINY else "cuda")


def wait() -> None:
    """Wait for the device."""
    import torch

    if not TINY:
        torch.cuda.synchronize()


def make_trainer(
    steps: int = 64, cuda_graphs: bool = True, **changes: Any
) -> tuple[Any, list[str]]:
    """Return a trainer of the preset `celeba64` on random images, and its list of warnings."""
    import numpy as np

    from atelier.core.events import Events
    from atelier.core.presets import preset_values
    from atelier.core.settings import TrainSettings
    from atelier.gan.trainer import Trainer

    values = preset_values("celeba64", ROOT / "presets")["train"] | {"batch_size": 128}
    if TINY:
        values |= {"generator_channels": 4, "discriminator_channels": 4, "batch_size": 8}
    values |= {"precision": "auto", "epochs": 10**6, "kid_every_epochs": 0} | changes
    settings = TrainSettings(**values)
    count = settings.batch_size * (3 if TINY else steps)
    coarse = np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    messages: list[str] = []

    class Messages(Events):
        def warn(self, *warnings: str) -> None:
            messages.extend(warnings)

    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    trainer = Trainer(settings, images, device(), events=Messages())
    trainer.runner.use_cuda_graphs = cuda_graphs
    return trainer, messages


def measure_rate(trainer: Any, messages: list[str], epochs: int = 3) -> Results:
    """Return images per second, with the ends of epochs and without them."""
    size, last = trainer.settings.batch_size, trainer.steps_per_epoch - 1
    times: dict[int, float] = {}

    def note_time() -> None:
        step = (trainer.steps_done - 1) % trainer.steps_per_epoch
        if step in (0, last):
            wait()
            times[step] = time.perf_counter()

    run = trainer.run(after_step=note_time)
    next(run)  # captures the step, chooses kernels
    whole, steps = [], []
    for _ in range(1 if TINY else epochs):
        wait()
        start = time.perf_counter()
        next(run)
        wait()
        whole.append((last + 1) * size / (time.perf_counter() - start))
        steps.append(size * last / max(1e-9, times[last] - times[0]))
    rate = statistics.median(steps)
    return {
        "steps_per_epoch": last + 1,
        "images_per_second": round(rate),
        "images_per_second_with_epoch_ends": round(statistics.median(whole)),
        "ms_per_step": round(1e3 * size / rate, 3),
        "warnings": messages,
    }


def one_step(trainer: Any) -> Callable[[], Any]:
    """Return a function that does a training step on the first batch."""
    import torch

    indices = torch.arange(trainer.settings.batch_size)
    pixels = next(iter(trainer._loader.batches([indices])))
    return lambda: trainer.runner.run(trainer.gan, trainer._batch(pixels, indices))


def machine() -> Results:
    """Versions, packages that cannot be imported, and the device's own speed."""
    import torch

    answer: Results = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "missing": [],
    }
    for name in ("mlflow", "dvc", "triton", "pytest", "cv2", "safetensors", "pydantic"):
        try:
            __import__(name)
        except ImportError:
            answer["missing"].append(name)
    return answer if TINY else answer | device_speed()


def device_speed() -> Results:
    """Return the speed of products, copies, launches and nodes of a graph."""
    import torch

    def milliseconds(work: Callable[[], object], times: int = 10) -> float:
        for _ in range(3):
            work()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / times

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b, source = torch.randn_like(a), torch.randn(2**28, device="cuda")
    target, small = torch.empty_like(source), torch.zeros(64, device="cuda")
    start = time.perf_counter()
    for _ in range(20_000):
        small.add_(1)
    wait()
    launch = (time.perf_counter() - start) / 20_000
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(1000):
            small.add_(1)
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "bf16_tflops": round(2 * 8192**3 / milliseconds(lambda: a @ b) / 1e9),
        "copy_gb_per_second": round(
            2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e6
        ),
        "us_per_launch": round(launch * 1e6, 2),
        "us_per_graph_node": round(milliseconds(graph.replay), 2),
    }


def train() -> Results:
    """Training of celeba64, captured as a CUDA graph and eager."""
    import torch

    answer = {"captured": measure_rate(*make_trainer(steps=256))}
    if not TINY:
        answer["captured"]["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    answer["eager"] = measure_rate(*make_trainer(cuda_graphs=False), epochs=2)
    return answer


def tests() -> Results:
    """The tests of the GPU path."""
    names = ("gan/test_precision", "style/test_transfer", "style/test_graphed_evaluation",
             "metrics/test_distances")  # fmt: skip
    files = [f"tests/{name}.py" for name in names]
    files = [file for file in files if (ROOT / file).exists()]
    options = ["-q", "-W", "default", "-p", "no:cacheprovider", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *options, "-m", "gpu"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return {"exit_code": done.returncode, "end": lines[-40:]}


def syncs() -> Results:
    """Every wait for the device in a step and in an evaluation of a style transfer."""
    import torch

    if TINY:
        return {"skipped": "needs a GPU"}

    def waits(work: Callable[[], object]) -> dict[str, int]:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught
                  if "synchroniz" in str(w.message)]  # fmt: skip
        return dict(collections.Counter(places))

    answer = {}
    for name, cuda_graphs in (("eager step", False), ("captured step", True)):
        trainer, _ = make_trainer(steps=4, cuda_graphs=cuda_graphs)
        step = one_step(trainer)
        for _ in range(3):
            step()
        answer[name] = waits(step)
    optimizer = make_transfer(512)
    optimizer.advance(3)
    answer["evaluation"] = waits(lambda: optimizer.advance(1))
    return answer


def kernels() -> Results:
    """Kernels of a step and of an evaluation: count, microseconds, the slowest."""
    from torch.profiler import ProfilerActivity, profile

    if TINY:
        return {"skipped": "needs a GPU"}

    def table(work: Callable[[], object], times: int = 3) -> Results:
        for _ in range(3):
            work()
        wait()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
            for _ in range(times):
                work()
            wait()
        rows = [
            (event.key[:110], event.count / times, event.self_device_time_total / times)
            for event in profiler.key_averages()
            if event.self_device_time_total and str(event.device_type).endswith("CUDA")
        ]
        rows.sort(key=lambda row: -row[2])
        return {
            "kernels": round(sum(row[1] for row in rows)),
            "busy_us": round(sum(row[2] for row in rows), 1),
            "slowest": rows[:40],
        }

    optimizer = make_transfer(512)
    optimizer.advance(11)
    return {
        "captured step": table(one_step(make_trainer(steps=4)[0])),
        "eager step": table(one_step(make_trainer(steps=4, cuda_graphs=False)[0])),
        "evaluation": table(lambda: optimizer.advance(1)),
    }


def stylize_settings(pixels: int, **changes: Any) -> Any:
    """Return the settings of the preset `photo` with random weights and no files."""
    from atelier.core.presets import preset_values
    from atelier.core.settings import StylizeSettings

    values = preset_values("photo", ROOT / "presets")["stylize"]
    values |= {"weights": "random", "image_size": pixels, "contents": ["x"], "styles": ["y"]}
    return StylizeSettings(**values | changes)


def make_transfer(pixels: int, **changes: Any) -> Any:
    """Return the optimizer of a style transfer at one size, ready to advance."""
    import torch

    from atelier.style.checkpoint import TransferCheckpoints
    from atelier.style.graphed_evaluation import GraphCapture
    from atelier.style.loss_log import StyleEvents
    from atelier.style.objective import Style, cast_vgg
    from atelier.style.optimizers import build_optimizer
    from atelier.style.problem import ScaledProblem, StyleJob
    from atelier.style.transfer import StyleTransfer
    from atelier.style.vgg import build_vgg19

    settings = stylize_settings(pixels, pyramid_levels=1, **changes)
    deepest = max([*settings.style_layers, *settings.content_layers])
    vgg = build_vgg19("random", settings.pooling, 1, deepest, settings.padding).to(device())
    vgg = cast_vgg(vgg, settings, device())
    generator = torch.Generator().manual_seed(1)
    content, style = (
        torch.rand(1, 3, pixels, pixels, generator=generator).to(device()) for _ in range(2)
    )
    job = StyleJob(content, (Style((style,)),), {0: "x"})
    problem = ScaledProblem(job, settings, vgg, None)
    events = StyleEvents()
    transfer = StyleTransfer(
        job, settings, vgg, events, TransferCheckpoints(), GraphCapture(events)
    )
    evaluate = transfer._evaluation(problem, 1.0, settings.iterations)
    return build_optimizer(problem.initial_image(), evaluate, settings, problem.bounds)


def paint() -> Results:
    """Seconds of style transfers as the stage runs them, the first and the second time."""
    cases: dict[str, dict[str, Any]] = {
        "photo, auto": {},
        "photo, fp32": {"precision": "fp32"},
        "L-BFGS, 100 evaluations": {
            "optimizer": "lbfgs", "precision": "fp32", "iterations": 100, "pyramid_levels": 1,
        },
        "photo, without CUDA graphs": {"cuda_graphs": False},
        "photo, 1024 pixels, 4 GB": {"image_size": 1024, "memory_gb": 4.0},
        "photo, 1024 pixels, half of the memory": {"image_size": 1024, "memory_gb": "auto"},
    }  # fmt: skip
    answer = {}
    for name, changes in cases.items():
        if not (TINY and "image_size" in changes):
            answer[name] = time_transfer(changes | ({"iterations": 4} if TINY else {}))
    return answer


def time_transfer(changes: dict[str, Any]) -> Results:
    """Stylize one image twice, as the stage does."""
    import torch

    from atelier.style import graphed_evaluation
    from atelier.style.demo_styles import demo_style_image
    from atelier.style.inputs import resize_to_tensor
    from atelier.style.loss_log import IterationLosses, StyleEvents
    from atelier.style.objective import Style
    from atelier.style.transfer import TransferTask, transfer_style
    from atelier.style.vgg import build_vgg19

    losses: list[IterationLosses] = []
    messages: list[str] = []

    class Recorder(StyleEvents):
        def on_losses(self, losses_of_image: IterationLosses) -> None:
            losses.append(losses_of_image)

        def warn(self, *warnings: str) -> None:
            messages.extend(warnings)

    graphed_evaluation.USE_CUDA_GRAPHS = changes.pop("cuda_graphs", True)
    pixels = changes.pop("image_size", 48 if TINY else 512)
    settings = stylize_settings(pixels, **changes)
    deepest = max([*settings.style_layers, *settings.content_layers])
    vgg = build_vgg19("random", settings.pooling, 1, deepest, settings.padding)
    # Smooth noise has such small losses that no step in bfloat16 lowers them.
    content, style = (
        resize_to_tensor(demo_style_image(name, pixels, 1), pixels)
        for name in ("stained_glass", "night_sky")
    )
    seconds = []
    task = TransferTask(0, "x", content, Style((style,)))
    if not TINY:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        losses.clear()
        wait()
        start = time.perf_counter()
        list(transfer_style([task], settings, vgg.to(device()), Recorder()))
        wait()
        seconds.append(round(time.perf_counter() - start, 2))
    totals = [row.total for row in losses if row.level == losses[-1].level]
    return {
        "seconds": seconds,
        "peak_gb": None if TINY else round(torch.cuda.max_memory_reserved() / 1e9, 2),
        "evaluations": len(losses),
        "ms_per_evaluation": round(1e3 * seconds[-1] / max(1, len(losses)), 2),
        "loss": [totals[0], min(totals)],  # at the full size
        "warnings": messages,
    }


def resume() -> Results:
    """Largest difference of weights after two epochs: repeated, resumed and eager."""
    import torch

    from atelier.core.checkpoints import Checkpoints

    def new_trainer(**changes: Any) -> Any:
        values = {"schedule": "cosine", "ema_decay": 0.9, "epochs": 2}
        return make_trainer(steps=4, **values, **changes)[0]

    def end_of(kind: str) -> Any:
        trainer = new_trainer(cuda_graphs=kind != "eager")
        run = trainer.run()
        next(run)
        if kind == "resumed":
            with tempfile.TemporaryDirectory() as folder:
                checkpoints = Checkpoints(Path(folder))
                checkpoints.save(trainer.steps_done, trainer.state())
                trainer = new_trainer()
                trainer.restore(checkpoints.latest())
            run = trainer.run()
        next(run)
        weights = trainer.gan.generator.parameters()
        return torch.cat([weight.detach().flatten().cpu() for weight in weights])

    answer = {}
    for deterministic in (False, True):
        torch.backends.cudnn.deterministic = deterministic
        whole = end_of("whole")
        answer[f"deterministic={deterministic}"] = {
            kind: float((end_of(kind) - whole).abs().max())
            for kind in ("whole again", "resumed", "eager")
        }
    return answer


def variants() -> Results:
    """Other batch sizes, precisions and losses."""
    import torch

    from atelier.core.errors import AtelierError

    best = {
        "r1": 1.0, "penalty_interval": 4, "loss": "hinge", "discriminator_norm": False,
        "ema_decay": 0.999, "augment": ["color", "translation", "cutout"],
        "horizontal_flip": True,
    }  # fmt: skip
    cases: dict[str, dict[str, Any]] = {
        "cudnn.benchmark": {}, "batch 256": {"batch_size": 256}, "batch 512": {"batch_size": 512},
        "batch 1024": {"batch_size": 1024}, "tf32": {"precision": "tf32"},
        "fp32": {"precision": "fp32"}, "ema": {"ema_decay": 0.999}, "penalties": best,
    }  # fmt: skip
    answer: Results = {}
    for name, changes in cases.items():
        if TINY and "batch_size" in changes:
            continue
        torch.backends.cudnn.benchmark = name == "cudnn.benchmark" or "batch_size" in changes
        try:
            answer[name] = measure_rate(*make_trainer(**changes), epochs=2)
        except (AtelierError, RuntimeError) as error:
            answer[name] = f"{type(error).__name__}: {str(error)[:300]}"
    return answer


def numbers() -> Results:
    """Differences between the devices in features, KID and generated images."""
    import numpy as np
    import torch

    from atelier.gan.generation import generate
    from atelier.metrics.distances import compute_kid
    from atelier.metrics.features import Extractor, RandomFeatures

    rng, count = np.random.default_rng(2), 96 if TINY else 800
    sets = [rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8) for _ in range(2)]
    extractor = Extractor(RandomFeatures(1), "random 1")
    on_cpu = [extractor(images, torch.device("cpu")) for images in sets]
    on_device = [extractor(images, device()).cpu() for images in sets]
    trainer, _ = make_trainer(steps=2)
    latents = torch.randn(64, 100, generator=torch.Generator().manual_seed(1))
    generator = trainer.gan.generator
    images = [generate(generator, latents), generate(generator.cpu(), latents)]
    return {
        "features_relative": float((on_cpu[0] - on_device[0]).norm() / on_cpu[0].norm()),
        "kid": [compute_kid(*on_cpu).value, compute_kid(*on_device).value],
        "generated_levels": int(np.abs(images[0].astype(int) - images[1].astype(int)).max()),
    }


def memory() -> Results:
    """Measure a batch that does not fit, and a step that cannot be captured."""
    import torch

    from atelier.core.errors import AtelierError
    from atelier.gan import cuda_graph

    if TINY:
        return {"skipped": "needs a GPU"}
    answer: Results = {}
    torch.cuda.set_per_process_memory_fraction(0.04)
    try:
        next(make_trainer(steps=1, batch_size=8192)[0].run())
        answer["too large"] = "it fitted"
    except AtelierError as error:
        answer["too large"] = str(error)
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
    step = cuda_graph.train_step

    def waiting_step(*arguments: Any) -> Any:
        statistics_of_step = step(*arguments)
        if torch.cuda.is_current_stream_capturing():
            float(statistics_of_step[0])  # no recording may wait
        return statistics_of_step

    cuda_graph.train_step = waiting_step
    trainer, messages = make_trainer(steps=8)
    stream = torch.cuda.current_stream()
    next(trainer.run())
    answer["not capturable"] = {
        "warnings": messages,
        "stream restored": torch.cuda.current_stream() == stream,
        "finite": trainer.is_finite(),
    }
    return answer


def benchmark(*words: str) -> Results:
    """Return the JSON line that another benchmark prints."""
    done = subprocess.run([sys.executable, *words, "--json"], cwd=ROOT, capture_output=True,
                          text=True)  # fmt: skip
    try:
        answer: Results = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"exit_code": done.returncode, "error": done.stderr[-1500:]}
    return answer


def bench_train() -> Results:
    """Ratio to the tutorial's training loop."""
    size = ("--steps", "2", "--width", "4", "--batch", "8") if TINY else ("--steps", "200")
    return benchmark("benchmarks/train.py", *size, "--rounds", "1" if TINY else "2")


def bench_style() -> Results:
    """Ratio to the tutorial's style transfer."""
    if TINY:
        return {"skipped": "takes minutes on a CPU"}
    return benchmark("benchmarks/style.py", "--rounds", "1", "--evaluations", "300")


def fused() -> Results:
    """`train.fused` against the plain step, and the losses of the first steps of both."""
    import torch

    torch.backends.cudnn.benchmark = not TINY
    answer: Results = {}
    losses = []
    for name in ("none", "auto"):
        start = time.perf_counter()
        trainer, messages = make_trainer(fused=name)
        losses.append(next(trainer.run()).statistics[:8, :2])
        seconds = round(time.perf_counter() - start, 1)
        answer[name] = measure_rate(trainer, messages, 2) | {"seconds of first epoch": seconds}
    answer["largest difference of the first losses"] = float(abs(losses[1] - losses[0]).max())
    return answer


def run_part(name: str) -> None:
    """Run one part in this process, and print its answer as the last line."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]
    try:
        answer = globals()[name]()
    except Exception:
        answer = {"failed": traceback.format_exc()[-2500:]}
    print("\nANSWER " + json.dumps(answer), flush=True)


def run_parts(names: list[str], seconds: float, tiny: bool) -> Iterator[tuple[str, Any, float]]:
    """Run each part in a process of its own; yield its name, answer and seconds."""
    start = time.monotonic()
    path = f"{ROOT}/src:{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    for name in names:
        left = seconds - (time.monotonic() - start)
        if left < LEAST_SECONDS:
            yield name, "no time left", 0.0
            continue
        command = [sys.executable, str(Path(__file__).resolve()), "--part", name]
        before = time.monotonic()
        limit = min(left, LIMITS[name])
        with subprocess.Popen(
            command + ["--tiny"] * tiny, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=ROOT, env=environment, start_new_session=True,
        ) as part:  # fmt: skip
            try:
                output, errors = part.communicate(timeout=limit)
                lines = [line[7:] for line in output.splitlines() if line.startswith("ANSWER ")]
                answer = json.loads(lines[-1]) if lines else {"error": errors[-1500:]}
            except subprocess.TimeoutExpired:
                # Its own programs too, which would slow down the following parts.
                os.killpg(part.pid, signal.SIGKILL)
                answer = f"stopped after {limit:.0f} s"
        yield name, answer, round(time.monotonic() - before, 1)


def headline(name: str, answer: Any) -> str:
    """Return the most important number of a part, or its whole answer if it has none."""
    try:
        match name:
            case "train":
                return f"{answer['captured']['images_per_second']:,} images/s captured"
            case "fused":
                rates = [f"{answer[key]['images_per_second']:,}" for key in ("auto", "none")]
                return f"{rates[0]} images/s with `auto`, {rates[1]} with `none`"
            case "variants":
                return ", ".join(f"{key} {answer[key]['images_per_second']:,}" for key in answer)
            case _:
                return json.dumps(answer)[:120]
    except (KeyError, TypeError):
        return json.dumps(answer)[:120]


def print_table(results: Results) -> None:
    """Print the prediction next to the measurement of each part."""
    print("\n| part | seconds | predicted | measured |\n|---|---|---|---|")
    for name, result in results.items():
        measured = headline(name, result["answer"])
        predicted = PREDICTIONS.get(name, "")
        print(f"| {name} | {result['seconds']} | {predicted} | {measured} |")


def main() -> None:
    """Run the parts that the command line asks for."""
    global TINY  # read by every part
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=470)
    parser.add_argument("--parts", default=",".join(LIMITS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    TINY = options.tiny
    if options.part:
        run_part(options.part)
        return
    results: Results = {}
    for name, answer, seconds in run_parts(options.parts.split(","), options.seconds, TINY):
        results[name] = {"answer": answer, "seconds": seconds}
        options.out.write_text(json.dumps(results, indent=1), "utf-8")
        print(f"{name} ({seconds} s): {json.dumps(answer)[:600]}", flush=True)
    print_table(results)


if __name__ == "__main__":
    main()
