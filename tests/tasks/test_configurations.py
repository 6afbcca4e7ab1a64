"""Every choice of every group composes, experiments into a model, a loss and a way to train, with published numbers."""

import pytest
import torch
from fixtures.commands import CONF, compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object

from gtcrn.tasks.building import build
from gtcrn.tasks.checking import check

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


# {group: override without which the group is no part of the configuration}
BESIDE = {
    "data/denoiser": ["data=timbre"],
    "data/recipe": ["data=dns"],
    "download": ["task=download"],
    "hydra/launcher": ["hydra/sweeper=basic"],
    "loss/terms": ["loss=custom"],
    "prepare": ["task=prepare"],
    "profile": ["task=profile"],
    "training/discriminator": ["training=adversarial"],
}
# files of Hydra's plugins, which may be missing, and files that only other files include
APART = ("hydra", "data/loading")
CHOICES = sorted(
    (str(path.parent.relative_to(CONF)), path.stem)
    for path in CONF.glob("*/**/*.yaml")
    if not str(path.parent.relative_to(CONF)).startswith(APART)
)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(choice) for choice in CHOICES])
def test_every_choice_composes(command, group, choice):
    task = ["task=profile"] if (group, choice) == ("model", "all") else []
    cfg = command(*BESIDE.get(group, task), f"{group}={choice}")
    check(cfg)


# {overrides: epochs or steps, optimizer, its rate, betas and decay, steps of warm-up, rate at the end}
SCHEDULES = {
    "data=demo": (5, "AdamW", 4e-3, (0.9, 0.999), 0.01, 100, 1e-5),
    "data=dns": (100, "AdamW", 1e-3, (0.9, 0.999), 0.01, 2500, 1e-5),
    "data=dns_pairs": (100, "AdamW", 1e-3, (0.9, 0.999), 0.01, 2500, 1e-5),
    "data=vctk_demand": (100, "AdamW", 1e-3, (0.9, 0.999), 0.01, 2500, 1e-5),
    "data=finetune": (100, "AdamW", 1e-3, (0.9, 0.999), 0.01, 2500, 1e-5),
    "data=timbre": (60, "AdamW", 1e-4, (0.9, 0.999), 0.01, 2500, 1e-5),
    "data=demo training=distillation": (5, "AdamW", 4e-3, (0.9, 0.999), 0.01, 100, 1e-5),
    "data=dns training=distillation": (100, "AdamW", 1e-3, (0.9, 0.999), 0.01, 2500, 1e-5),
    "data=demo training=adversarial": (5, "AdamW", 4e-3, (0.8, 0.99), 0.01, 100, 1e-6),
    "data=dns training=adversarial": (100, "AdamW", 1e-3, (0.8, 0.99), 0.01, 2500, 1e-6),
    "data=timbre training=adversarial": (60, "AdamW", 1e-4, (0.8, 0.99), 0.01, 2500, 1e-6),
    "data=demo training=qat": (400, "Adam", 6e-4, (0.9, 0.99), 0, 20, 0),
    "data=dns training=qat": (400, "Adam", 6e-4, (0.9, 0.99), 0, 20, 0),
    "data=noisy training=qat": (400, "Adam", 6e-4, (0.9, 0.99), 0, 20, 0),
    "experiment=dtln_dns": (100, "Adam", 1e-3, (0.9, 0.999), 0, 2500, 1e-5),
    "experiment=dtln_32k_dns": (100, "Adam", 1e-3, (0.9, 0.999), 0, 2500, 1e-5),
    "experiment=fastenhancer_vctk_demand": (500, "AdamW", 2e-3, (0.95, 0.999), 0.01, 500, 1e-6),
    "experiment=gtcrn_dns3": (11, "Adam", 1e-3, (0.9, 0.999), 0, 25000, 1e-6),
    "experiment=gtcrn_vctk_demand": (200, "Adam", 1e-3, (0.9, 0.999), 0, 25000, 1e-6),
    "experiment=micro_dns3": (7, "Adam", 1e-3, (0.9, 0.999), 0, 25000, 1e-6),
    "experiment=ulunas_vctk_demand": (90, "Adam", 1e-3, (0.9, 0.999), 0, 25000, 1e-6),
    "experiment=light_v3_vctk_demand": (100, "AdamW", 1e-3, (0.9, 0.999), 0.01, 2500, 1e-5),
    "experiment=light_v3_real": (12000, "AdamW", 2e-3, (0.9, 0.999), 0.01, 200, 1e-5),
    "experiment=micro_int8_real": (5000, "AdamW", 2e-3, (0.9, 0.999), 0.01, 200, 1e-5),
    "experiment=timbre_48k": (60, "AdamW", 1e-4, (0.8, 0.99), 0.01, 2500, 1e-6),
}


@pytest.mark.parametrize("overrides", SCHEDULES)
def test_schedules_are_those_that_results_were_found_with(command, overrides):
    cfg = command(*overrides.split())
    length, kind, lr, betas, decay, warmup, final = SCHEDULES[overrides]
    assert length == (cfg.trainer.max_epochs if cfg.trainer.max_steps == -1 else cfg.trainer.max_steps)
    optimizer = build(cfg.optimizer)([torch.nn.Parameter(torch.ones(1))])
    assert type(optimizer).__name__ == kind
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": lr, "betas": betas, "weight_decay": decay
    }  # fmt: skip
    scheduler = build(cfg.scheduler)(optimizer, total_steps=50000)
    (factor,) = scheduler.lr_lambdas
    middle = (lr + final) / 2
    for step, rate in ((0, lr / warmup), (warmup, lr), ((warmup + 50000) // 2, middle), (50000, final)):
        assert lr * factor(step) == pytest.approx(rate, rel=1e-9, abs=1e-12)
    if "adversarial" in cfg.training._target_:
        other = build(cfg.training.discriminator_optimizer)([torch.nn.Parameter(torch.ones(1))]).defaults
        assert (other["lr"], other["betas"], other["weight_decay"]) == (1e-4, (0.8, 0.99), 0.01)


# {loss: {term: weight}}
WEIGHTS = {
    "fastenhancer": {"magnitude": 0.3, "complex": 0.1, "consistency": 0.15, "l1": 0.2},
    "hybrid": {"complex": 30, "magnitude": 70, "sisdr": 0.1},
    "hybrid_perceptual": {"complex": 30, "magnitude": 70, "sisdr": 0.1, "pesq_loss": 1, "stoi_loss": 5},
    "mag": {"magnitude": 70},
    "multires_stft": {"stft": 1},
    "output_snr": {"output_snr": 1},
    "ri_mag": {"complex": 15, "magnitude": 70},
    "sisdr": {"sisdr": 1},
    "sisdr_mag": {"sisdr": 0.5, "magnitude": 70},
    "snr": {"snr": 1},
    "timbre": {"l1": 3, "stft": 3},
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_a_loss(name):
    terms = compose(f"loss={name}").loss.terms
    assert {term: keys.weight for term, keys in terms.items()} == WEIGHTS[name]
    assert list(terms) == list(WEIGHTS[name])


@pytest.mark.parametrize(
    ("overrides", "weights"),
    [
        (["loss=custom", "loss/terms=[stft,l1]"], {"stft": 1, "l1": 1}),
        (["loss/terms=[magnitude,stft]", "loss.terms.stft.weight=2"], {"magnitude": 70, "stft": 2}),
        (["loss=hybrid", "loss/terms=[complex,magnitude,sisdr,l1]"], WEIGHTS["hybrid"] | {"l1": 1}),
        (["loss=hybrid", "~loss.terms.sisdr"], {"complex": 30, "magnitude": 70}),
    ],
)
def test_terms_are_chosen_on_the_command_line(command, overrides, weights):
    loss = build(command(*overrides).loss)
    assert {name: term.weight for name, term in loss.terms.items()} == weights


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_parts_can_be_built(command, name):
    cfg = command(f"experiment={name}")
    build(cfg.model)
    build(cfg.loss)
    check(cfg)
    assert get_object(cfg.training._target_)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_of_a_sweep_composes(name):
    cfg = compose(f"experiment={name}", with_hydra=True)
    for key, values in (cfg.hydra.sweeper.get("params") or {}).items():
        override = OverridesParser.create().parse_override(f"{key}={values}")
        assert override.is_sweep_override(), "a sweep of one value is none"
        for value in override.sweep_string_iterator():
            compose(f"experiment={name}", f"{key}={value}")


def test_several_experiments_at_once():
    cfg = compose("experiment=[gtcrn_vctk_demand,light_v3_vctk_demand]")  # the later one wins
    assert (cfg.trainer.max_epochs, cfg.scheduler.warmup_steps, cfg.model.causal) == (100, 2500, False)


@pytest.mark.parametrize("name", ["gtcrn_vctk_demand", "dtln_dns", "timbre_48k"])
def test_limit_comes_last(name):
    cfg = compose(f"experiment={name}", "debug=limit")
    assert (cfg.trainer.max_epochs, cfg.data.batch_size, cfg.metrics.test_files) == (1, 2, 4)


@pytest.mark.parametrize(
    ("overrides", "batch", "workers"),
    [
        ([], 8, 2),
        (["trainer=gpu"], 64, "auto"),
        (["trainer=ddp"], 64, "auto"),
        (["trainer=gpu", "data.batch_size=16"], 16, "auto"),
        (["trainer=gpu", "experiment=gtcrn_vctk_demand"], 4, "auto"),
        (["trainer=gpu", "experiment=light_v3_vctk_demand"], 8, "auto"),
        (["trainer=gpu", "data=demo"], 4, 0),
    ],
)
def test_a_gpu_gets_larger_batches_unless_one_is_named(overrides, batch, workers):
    data = compose("data=vctk_demand", *overrides).data
    assert (data.batch_size, data.num_workers) == (batch, workers)
