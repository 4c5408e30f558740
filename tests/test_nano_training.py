"""What both trainings share, and both trainings in miniature: killed, resumed, repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clipsam.cli import app
from clipsam.errors import UsageError
from clipsam.nano import train_clip, train_sam, train_text
from clipsam.nano.batches import TYPES
from clipsam.nano.training import Average, Log, load_checkpoint, optimizer_for, rate, save_checkpoint

CLIP = train_clip.ClipTraining(
    steps=4,
    batch=1,
    sizes=((128, 128),),
    text_steps=2,
    vocabulary=300,
    workers=0,
    checkpoint_every=2,
    validate_every=2,
    validation=1,
    head_batches=1,
    head_steps=2,
)
SAM = train_sam.SamTraining(
    steps=4, batch=1, prompts=1, workers=0, checkpoint_every=2, validate_every=2, validation=1
)


class Killed(Exception):
    """Stands for whatever ends a training in the middle of a step."""


def test_rate_warms_up_stays_and_falls():
    rates = [rate(step, steps=100, warmup=10, decay=0.2) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)
    assert rate(100, 100, 10, 0.2) == 0


@pytest.mark.parametrize(("steps", "warmup", "decay"), [(1, 0, 0.0), (2, 50, 0.5), (5, 1, 1.0)])
def test_rate_is_a_share_for_any_schedule(steps, warmup, decay):
    assert all(0 < rate(step, steps, warmup, decay) <= 1 for step in range(steps))


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Conv2d(1, 1, 3))
    model[0].bias.requires_grad_(False)
    decayed, free = optimizer_for(model, 1e-3, 0.05).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert {id(p) for p in free["params"]} == {id(model[1].weight), id(model[1].bias), id(model[2].bias)}


def test_average_by_hand():
    model = nn.BatchNorm1d(1)
    average = Average(model, decay=0.5)
    model.weight.data.fill_(11.0)
    model.num_batches_tracked.fill_(7)
    average.update(model, step=0)  # a warm start: a tenth of the old, whatever the decay
    assert float(average.state["weight"]) == pytest.approx(0.1 * 1 + 0.9 * 11)
    assert int(average.state["num_batches_tracked"]) == 7
    average.state["weight"].fill_(1.0)
    average.update(model, step=1000)
    assert float(average.state["weight"]) == pytest.approx(0.5 * 1 + 0.5 * 11)
    assert float(model.weight.detach()) == 11


def stepped(model: nn.Module, optimizer: torch.optim.AdamW, average: Average, step: int) -> None:
    model(torch.rand(4, 3)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    average.update(model, step)


def test_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path):
    def fresh(seed: int) -> tuple[nn.Module, torch.optim.AdamW, Average]:
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
        return model, optimizer_for(model, 1e-2, 0.05), Average(model, 0.9)

    first = fresh(0)
    for step in range(3):
        stepped(*first, step)
    save_checkpoint(tmp_path / "deep" / "x.ckpt", *first, 3)
    stepped(*first, 3)
    second = fresh(1)
    assert load_checkpoint(tmp_path / "deep" / "x.ckpt", *second) == 3
    stepped(*second, 3)
    assert torch.equal(first[0].weight, second[0].weight)
    assert all(torch.equal(value, second[2].state[name]) for name, value in first[2].state.items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.ckpt"]


def test_without_a_checkpoint_it_starts_at_zero(tmp_path):
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    assert load_checkpoint(tmp_path / "x.ckpt", model, optimizer_for(model, 1, 0), Average(model, 0.9)) == 0
    assert torch.equal(model.weight, before)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    model = nn.Linear(3, 2)
    parts = model, optimizer_for(model, 1, 0), Average(model, 0.9)
    save_checkpoint(tmp_path / "x.ckpt", *parts, 1)

    def half_written(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path / "x.ckpt", *parts, 2)
    assert load_checkpoint(tmp_path / "x.ckpt", *parts) == 1


def test_log_writes_means_since_the_last_report(tmp_path, capsys):
    log = Log(tmp_path / "deep" / "log.jsonl")
    log.add({"loss": 1.0}, 8)
    log.add({"loss": 3.0}, 8)
    log.report(2, scale=20.0)
    log.add({"loss": 5.0}, 8)
    log.report(3)
    rows = [json.loads(line) for line in (tmp_path / "deep" / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 2.0), (3, 5.0)]
    assert rows[0]["scale"] == 20.0
    assert all(row["pictures_per_second"] > 0 for row in rows)
    assert "loss 2.0" in capsys.readouterr().err


@pytest.fixture
def few_words(monkeypatch):
    """A tokenizer from a few sentences and no names of parts: rendering all parts takes seconds."""
    sentences = train_clip.vocabulary_sentences
    for module in (train_clip, train_text):
        monkeypatch.setattr(module, "product_names", lambda: ("bottle", "screw"))
    monkeypatch.setattr(train_clip, "vocabulary_sentences", lambda n, *rest: sentences(300, *rest))


def stop_at(monkeypatch: pytest.MonkeyPatch, module: object, name: str, calls: int) -> None:
    """Let the function of this name be called so often, then raise `Killed`."""
    original, left = getattr(module, name), [calls]

    def limited(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(module, name, limited)


def same(first: Path, second: Path, file: str) -> bool:
    a, b = load_file(first / file), load_file(second / file)
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_clip_training_survives_a_kill_and_repeats_itself(tmp_path, monkeypatch, few_words):
    weights = "open_clip_model.safetensors"
    whole = train_clip.train_clip(CLIP, tmp_path / "whole")
    assert whole == tmp_path / "whole" / "clip"
    with monkeypatch.context() as patch:
        stop_at(patch, train_clip, "losses_of", 4)  # two steps, a validation, a third step that is not kept
        with pytest.raises(Killed):
            train_clip.train_clip(CLIP, tmp_path / "killed")
    assert not (tmp_path / "killed" / "clip").exists()
    torch.rand(7)  # whatever else has drawn random numbers meanwhile
    assert same(whole, train_clip.train_clip(CLIP, tmp_path / "killed"), weights)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "clip.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert all(row["validation_last"] > 0 and row["validation_any"] > 0 for row in rows)


def test_clip_training_leaves_the_taught_text_tower_alone(tmp_path, monkeypatch, few_words):
    taught = {}
    teach = train_clip.teach_text

    def remember(model: nn.Module, *rest: object, **named: object) -> None:
        teach(model, *rest, **named)
        taught.update({name: value.clone() for name, value in model.state_dict().items()})

    monkeypatch.setattr(train_clip, "teach_text", remember)
    found = load_file(train_clip.train_clip(replace(CLIP, steps=1), tmp_path) / "open_clip_model.safetensors")
    moved = {name for name, value in found.items() if not torch.equal(value, taught[name].to(value.dtype))}
    assert moved
    assert all(name.startswith("visual.") or name == "logit_scale" for name in moved)


def test_sam_training_survives_a_kill_and_repeats_itself(tmp_path, monkeypatch):
    whole = train_sam.train_sam(SAM, tmp_path / "whole")
    assert whole == tmp_path / "whole" / "sam"
    with monkeypatch.context() as patch:
        stop_at(patch, train_sam, "loss_of", 4)
        with pytest.raises(Killed):
            train_sam.train_sam(SAM, tmp_path / "killed")
    assert not (tmp_path / "killed" / "sam").exists()
    torch.rand(7)
    assert same(whole, train_sam.train_sam(SAM, tmp_path / "killed"), "model.safetensors")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "sam.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert all(0 <= row["validation_iou"] <= 1 for row in rows)


def test_kinds_of_prompts_take_turns():
    batch = train_sam.SamBatches(0, 1, 1, 1)[0]
    points, box, both = (set(train_sam.prompt_of(batch, step, "cpu")) for step in range(3))
    assert points == {"input_points", "input_labels"}
    assert box == {"input_boxes"}
    assert both == points | box
    assert set(train_sam.prompt_of(batch, 3, "cpu")) == points


@pytest.mark.parametrize("step", [0, 7])
def test_every_kind_of_step_reaches_encoder_and_decoder(step):
    torch.manual_seed(0)
    model = train_sam.build_sam().train()
    loss, numbers = train_sam.loss_of(model, train_sam.SamBatches(0, 1, 1, 2)[0], step, "cpu")
    loss.backward()
    assert loss.isfinite()
    assert 0 <= numbers["iou"] <= 1
    for part in (model.vision_encoder, model.mask_decoder):
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert any(g.abs().sum() > 0 for g in gradients)
        assert all(g.isfinite().all() for g in gradients)


def test_a_training_begins_from_finished_weights(tmp_path, few_words):
    """No step taken from `start` leaves the image tower as it is there; from random weights it does not."""
    first = train_clip.train_clip(replace(CLIP, steps=1), tmp_path / "first")
    again = train_clip.train_clip(replace(CLIP, steps=0), tmp_path / "again", start=first)
    fresh = train_clip.train_clip(replace(CLIP, steps=0), tmp_path / "fresh")
    one, two, three = (load_file(path / "open_clip_model.safetensors") for path in (first, again, fresh))
    trunk = [name for name in one if name.startswith(("visual.trunk.blocks", "transformer."))]
    assert trunk
    assert all(torch.equal(one[name], two[name]) for name in trunk)
    assert not all(torch.equal(one[name], three[name]) for name in trunk)


def test_sam_training_begins_from_finished_weights(tmp_path):
    first = train_sam.train_sam(replace(SAM, steps=1), tmp_path / "first")
    again = train_sam.train_sam(replace(SAM, steps=0), tmp_path / "again", start=first)
    assert same(first, again, "model.safetensors")


def test_weights_to_begin_from_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no weights; expected a folder that an earlier --out"):
        app(["train", "nano", "--start", str(tmp_path), "--out", str(tmp_path)], standalone_mode=False)


def test_the_wanted_likeness_of_states_is_one_that_directions_can_have():
    cosines = train_text.likeness(5)
    assert torch.equal(cosines, cosines.T)
    assert torch.linalg.eigvalsh(cosines).min() > -1e-6
    flawless, *types, damage = cosines
    assert flawless.argmax() == 0
    assert all(kind[-1] > kind[kind < 0.99].median() > 0 > kind[0] for kind in types)
    assert damage[0] == -1


def test_the_directions_of_states_are_as_alike_as_wanted():
    first, other = (train_text.directions(5, 32, seed) for seed in (1, 2))
    torch.testing.assert_close(first @ first.T, train_text.likeness(5))
    torch.testing.assert_close(other @ other.T, train_text.likeness(5))
    assert not torch.allclose(first, other, atol=0.1)


def test_teaching_the_text_tower_tells_states_apart(few_words):
    """A few steps bring sentences, in words that they have not seen so, nearer to their directions."""
    sentences = train_clip.vocabulary_sentences(300, 1, ("bottle", "screw"))
    tokenizer = train_clip.train_tokenizer(sentences, 600)
    torch.manual_seed(0)
    model = train_clip.build_clip(
        train_clip.clip_config(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    )
    wanted = train_text.directions(len(TYPES) + 1, 128, seed=1).repeat_interleave(train_text.SENTENCES, 0)

    def error() -> float:
        words = train_text.states(np.random.default_rng(5))
        with torch.no_grad():
            vectors = train_clip.encode_text(model, tokenizer, words, "cpu")
        return float((vectors - wanted).square().sum(dim=-1).mean())

    before = error()
    train_text.teach_text(model, tokenizer, seed=1, steps=40, peak=2e-3, weight_decay=0.05, device="cpu")
    assert error() < 0.5 * before
