"""`zeromask bench`: its ratios, what it stands on, and small runs of the real thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from rich.console import Console

from plugin_config.capacity import StageSeconds, seconds_for
from plugin_config.label_studio.client import LabelStudio
from worker.lab.bench import main
from worker.lab.benchmarks.counting_server import stamped
from worker.lab.benchmarks.emulated import PRESENT, draw, emulate
from worker.lab.benchmarks.gpu import QUICK_GPU, gpu_figures
from worker.lab.benchmarks.growth import charts
from worker.lab.benchmarks.many_tasks import fairness
from worker.lab.benchmarks.services import bench_services, blotches
from worker.lab.benchmarks.targets import Target, table
from worker.lab.benchmarks.throughput import ratios
from worker.lab.benchmarks.timing import Timings, time_in_turns
from worker.lab.benchmarks.two_stage import Crops, Proposals, proposals
from worker.label_studio.images import ImageLimits, decode_image
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.outlines.refinement import pixel_classes
from worker.segmentation.segmenter import Segmenter

LIMITS = ImageLimits(most_bytes=10_000_000, most_pixels=10_000_000, timeout_s=5, allow_private=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_ratios_leave_the_machine_out() -> None:
    """Two processes on this machine get 1.5 times the work of one done; the workers lose nothing beyond that."""
    found = ratios({"compute_1": 2.0, "compute_2": 3.0, "worker_1": 1.9, "worker_2": 2.85})
    assert found["queue_efficiency"] == pytest.approx(0.95)
    assert found["scaling_2"] == pytest.approx(2.0)
    assert found["worker_2_images_per_s"] == 2.85


def test_workers_that_do_not_share_the_work_show_in_the_figures() -> None:
    found = ratios({"compute_1": 2.0, "compute_2": 4.0, "worker_1": 1.9, "worker_2": 1.9})
    assert found["scaling_2"] == pytest.approx(1.0)


def test_every_task_has_a_picture_of_its_own() -> None:
    picture = blotches(96, 128)
    one, two = (decode_image(stamped(picture, number), subject="t", limits=LIMITS) for number in (1, 2))
    assert one.shape == two.shape == (96, 128, 3)
    assert (one != two).any()


def test_the_counting_server_is_read_by_our_own_client() -> None:
    with (
        bench_services(tasks=1200, picture=blotches(32, 32)) as services,
        LabelStudio(services.settings.label_studio_url, "x") as api,
    ):
        assert api.project(1).tasks == 1200
        assert [task.id for task in api.tasks(1, [3, 5, 1201])] == [3, 5]
        assert len(list(api.all_tasks(1))) == 1200
        for _ in range(2):
            assert api.create_prediction(3, [{"id": "a"}], score=0.5, version="v").version == "v"
        assert [row.version for row in api.predictions(3)] == ["v"]
        assert api.predictions(4) == []
        (task,) = api.tasks(1, [3])
        assert task.versions == {"v"}
        counts = services.counted()
        assert (counts["posts"], counts["tasks"], counts["duplicated"]) == (2, 1, 1)


ENGINE = {
    "model", "weights", "picture", "device", "threads", "encoder_ms", "image_to_regions_ms", "overhead", "images_per_s",
    "zegclip_overhead",
    "shape_ms", "cache_hit_ms", "cache_hit_speedup", "regions", "one_stage_speedup", "one_stage_speedup_20",
    "one_stage_speedup_50", "one_stage_speedup_100", "pamr_ms", "pamr_present_ms", "shape_speedup",
    "shape_speedup_present", "labels_5_overhead", "labels_20_overhead", "labels_40_overhead", "labels_80_overhead",
    "labels_300_overhead", "megapixels_0.25_overhead", "megapixels_1_overhead", "megapixels_4_overhead",
    "megapixels_12_overhead", "labels_20_to_40", "memory_mb",
    "affinity_overhead", "affinity_ms",
}  # fmt: skip
REGIONS = {f"{what}_{mask}_{unit}" for what in ("encode", "decode") for mask in ("smooth", "noisy")
           for unit in ("ms", "speedup")} | {"sdk_decodes_alike"}  # fmt: skip
LABELS = {f"labels_1200_64x40{masks}{head}" for masks in ("", "_masks") for head in ("", "_learned")}
TEXT = {"text_ms", "text_speedup", "text_start_ms", "text_restart_ms", "fingerprint_ms", "negatives"}


def test_the_quick_bench_runs_every_figure_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its figures mean nothing; that all come out, of the real path, does."""
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"encoder_ms": 0.001, "model": "other", "unheard_of": 3.0}))
    tower = tmp_path / "tower.pt"
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), tower)
    only = [argument for name in ("engine", "labels", "regions", "text") for argument in ("--only", name)]
    arguments = ["--quick", *only, "--device", "cpu", "--json", "--compare", str(earlier)]
    arguments += ["--tower", f"vit_tiny_patch16_224:{tower}"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    figures = json.loads(out)
    assert set(figures) == ENGINE | LABELS | REGIONS | TEXT | {"compared"}
    facts = {name: figures[name] for name in ("model", "weights", "picture", "device", "threads")}
    assert facts == {"model": "tiny", "weights": "random", "picture": "160x128", "device": "cpu", "threads": 1}
    numbers = {name: value for name, value in figures.items() if name not in facts and name != "compared"}
    assert all(value > 0 for name, value in numbers.items() if name != "labels_20_to_40")
    assert figures["sdk_decodes_alike"] == 1
    assert figures["regions"] >= PRESENT
    assert figures["compared"] == {"encoder_ms": pytest.approx(figures["encoder_ms"] / 0.001)}
    assert set(charts(figures)) == {"speed_labels", "speed_megapixels", "speed_stages"}


@pytest.mark.parametrize(("text", "says"), [("", "cannot be read"), ("[1]", "holds no figures")])
def test_a_file_that_cannot_be_compared_with_is_named(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text(text)
    assert main(["--compare", str(tmp_path / "x.json"), "--only", "regions", "--quick"]) == 2
    assert says in capsys.readouterr().err


def test_contestants_take_turns_and_ratios_pair_them() -> None:
    order: list[str] = []
    contestants = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    time_in_turns(contestants, turns=2, console=Console(quiet=True), title="")
    assert order == ["a", "b"] * 3
    times = Timings({"slow": [2.0, 20.0, 4.0], "fast": [1.0, 10.0, 1.0], "more": [1.0, 10.0, 1.0]})
    assert times.ms("fast") == 1000
    assert times.ratio("slow", "fast") == 2
    assert times.total_ratio(["slow", "more"], "fast") == 3


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target(most=1.25), 1.25, "at most 1.25: met"), (Target(most=1.25), 1.26, "at most 1.25: MISSED"),
        (Target(least=15), 15.0, "at least 15: met"), (Target(least=15), 14.9, "at least 15: MISSED"),
    ],
)  # fmt: skip
def test_a_target_is_met_or_missed(target: Target, value: float, verdict: str) -> None:
    assert target.verdict(value) == verdict
    assert verdict in table({"x": value, "model": "m"}, {"x": 1.5}, {"x": target, "model": target})


def test_emulated_masks_are_those_of_a_model_with_its_usual_errors() -> None:
    shown = emulate(draw(224, 296), 20)
    assert shown.head.patch_logits.shape == (21, 28, 37)
    size = (shown.image.shape[0], shown.image.shape[1])

    def miou(classes: NDArray[np.int16]) -> float:
        there = [*range(PRESENT), 20]
        return float(np.mean([((classes == c) & (shown.truth == c)).sum() / ((classes == c) | (shown.truth == c)).sum()
                              for c in there]))  # fmt: skip

    assert 0.6 < miou(pixel_classes(shown.head.patch_logits, size)[0]) < 0.9
    assert miou(pixel_classes(shown.head.patch_logits, size, shown.image)[0]) > 0.8


def test_two_stages_judge_each_crop_by_itself() -> None:
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    for colour in range(3):
        image[:, 30 * colour : 30 * (colour + 1), colour] = 255
    crops = Crops(lambda pixels: pixels.mean(dim=(2, 3)), 8, torch.eye(3))
    boxes = [(62, 5, 88, 50), (2, 0, 29, 60), (33, 20, 50, 30)] * 7
    assert crops.cosines(image, boxes).argmax(dim=1).tolist() == [2, 0, 1] * 7
    masks = torch.zeros(21, 15, 23)
    for k, (left, top, right, bottom) in enumerate(boxes):
        masks[k, -(-top // 4) : bottom // 4, -(-left // 4) : right // 4] = 1
    classes = crops.pixel_classes(image, Proposals(boxes, masks))
    assert [classes[30, 75], classes[30, 15], classes[25, 42], classes[5, 42]] == [2, 0, 1, 3]
    given = proposals(100, 60, 90)
    assert given.masks.shape == (100, 15, 23)
    for (left, top, right, bottom), mask in zip(given.boxes, given.masks, strict=True):
        assert 0 <= left < right <= 90
        assert 0 <= top < bottom <= 60
        down, across = divmod(int(mask.argmax()), 23)
        assert top - 4 <= 4 * down <= bottom
        assert left - 4 <= 4 * across <= right


def test_what_is_requested_in_several_requests_is_in_the_queue(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lab.benchmarks.many_tasks._MOST_TASKS", 30)  # two requests for each project
    assert main(["--only", "enqueue", "--tasks", "505", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["unqueued"] == 0
    assert figures["bytes_per_task"] <= 300
    assert figures["enqueue_per_s"] == pytest.approx(505 / figures["enqueue_seconds"])
    assert 30 * 600 < figures["request_mb"] * 1024**2 < 30 * 900, "the larger of the two"
    assert 0 < figures["status_read_seconds"] < figures["status_seconds"]
    assert figures["page_seconds"] > 0
    assert figures["redis_mb"] > 1


def test_twenty_thousand_tasks_of_ten_projects_are_drained_and_none_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "drain", "--tasks", "20000", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    lost = {name: figures[name] for name in ("posted", "duplicated", "failed", "lost", "unqueued")}
    assert lost == {"posted": 20_100, "duplicated": 0, "failed": 0, "lost": 0, "unqueued": 0}
    assert figures["bytes_per_task"] <= 150
    assert figures["drained_per_s"] == pytest.approx(20_100 / figures["drain_seconds"])
    assert figures["fairness"] > 0.95
    assert 0 < figures["late_seconds"] < figures["drain_seconds"] / 2, "a project that comes late does not come last"
    assert figures["drain_cpu_seconds"] > 0
    assert figures["redis_cpu_seconds"] > 0


def test_fairness_is_that_of_the_time_in_which_all_have_tasks() -> None:
    even = fairness([(project, 5) for _ in range(4) for project in (1, 2)], {1: 20, 2: 20})
    assert even.jain == pytest.approx(35**2 / (2 * (20**2 + 15**2)))
    assert even.most_ahead == 5
    one = fairness([(1, 20), (9, 20), (2, 20)], {1: 20, 2: 20})
    assert (one.jain, one.most_ahead) == (0.5, 20), "one project got all, until it was through"
    assert fairness([], {1: 20, 2: 20}).jain == 1.0


def test_a_worker_that_computes_nothing_posts_each_task_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "posts", "--tasks", "200", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["posted"], figures["posted_twice"], figures["not_posted"]) == (200, 0, 0)
    assert figures["posted_per_s"] > 0


def test_a_burst_of_webhooks_queues_one_look_at_each_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "bursts", "--quick", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["webhooks"], figures["webhooks_refused"], figures["looks_queued"]) == (200, 0, 10)
    assert 10 <= figures["looks_beside"] < 150, "a worker at work looks more than once, and far less than 200 times"


def test_what_was_predicted_is_compared_with_what_real_workers_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lab.benchmarks.capacity_check._WARM_TASKS", 4)
    assert main(["--only", "capacity", "--tasks", "12", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    stages = StageSeconds(*(figures[f"{name}_seconds"] for name in ("fetch", "embed", "segment", "post")))
    assert min(stages.fetch, stages.embed, stages.segment, stages.post, figures["cpu_seconds"]) > 0
    for workers in (1, 2):
        predicted, measured = figures[f"predicted_{workers}_seconds"], figures[f"measured_{workers}_seconds"]
        shared_s = figures["cpu_seconds"] / max(figures["cores"] - figures["others_cores"], 0.1)
        assert predicted == pytest.approx(seconds_for(12, workers, stages, shared_s=shared_s))
        assert figures[f"off_{workers}"] == pytest.approx(predicted / measured - 1)


def test_the_share_of_the_encoder_is_measured_for_each_size_of_batches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--only", "gpu", "--device", "cpu", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["gpu_device"], figures["tiny_most_batch"], figures["tiny_memory_mb"]) == ("cpu", 2, 0)
    assert figures["tiny_precision"] in {"float32", "bfloat16"}
    for batch in (1, 2):
        names = f"embed_ms_{batch}", "draw_ms", "decode_ms"
        embed_ms, draw_ms, decode_ms = (figures[f"tiny_{name}"] for name in names)
        assert figures[f"tiny_encoder_share_{batch}"] == pytest.approx(embed_ms / (embed_ms + draw_ms + decode_ms))
        assert figures[f"tiny_images_per_s_{batch}"] == pytest.approx(1000 / max(embed_ms, draw_ms, decode_ms / 8))


def test_a_batch_that_does_not_fit_ends_the_series(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Segmenter.embed

    def embed(segmenter: Segmenter, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(segmenter, images)

    monkeypatch.setattr(Segmenter, "embed", embed)
    size = replace(QUICK_GPU, batches=(1, 2, 4, 8))
    figures = gpu_figures(size, "cpu", Console(quiet=True))
    assert figures["tiny_most_batch"] == 2
    assert "tiny_images_per_s_2" in figures
    assert "tiny_images_per_s_4" not in figures
