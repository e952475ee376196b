"""Learning-rate schedules, by hand and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from affect_jax.training import schedules
from tests.affect_jax.training.test_optim import create


def rates(**values):
    _, schedule = create({}, learning_rate=0.8, **values)
    return [float(schedule(step)) for step in range(100)]


def test_constant():
    assert rates() == pytest.approx([0.8] * 100)


def test_step_drops_every_n_epochs():
    got = rates(schedule="step", step_epochs=2.5, decay_factor=0.1)
    expected = [0.8 * 0.1 ** (step // 25) for step in range(100)]
    assert got == pytest.approx(expected, rel=1e-5)


def test_exponential_drops_every_epoch():
    got = rates(schedule="exponential", decay_factor=0.9)
    assert got == pytest.approx([0.8 * 0.9 ** (step // 10) for step in range(100)], rel=1e-5)


def test_cosine_ends_at_the_final_fraction():
    got = rates(schedule="cosine", final_fraction=0.25)
    assert got[0] == pytest.approx(0.8)
    assert got[50] == pytest.approx(0.8 * (0.25 + 0.75 / 2))
    _, schedule = create({}, learning_rate=0.8, schedule="cosine", final_fraction=0.25)
    assert float(schedule(100)) == pytest.approx(0.2)
    assert float(schedule(150)) == pytest.approx(0.2)


@pytest.mark.parametrize("warmup", [{"warmup_steps": 20}, {"warmup_epochs": 2.0}])
def test_warmup_is_a_ramp_that_starts_above_zero(warmup):
    got = rates(**warmup)
    assert got[:20] == pytest.approx([0.8 * (s + 1) / 20 for s in range(20)])
    assert got[20:] == pytest.approx([0.8] * 80)
    cosine = rates(schedule="cosine", **warmup)
    assert np.argmax(cosine) in (19, 20)
    assert cosine[60] == pytest.approx(0.4)


def test_a_warmup_longer_than_the_run_is_cut_off():
    _, schedule = create({}, total_steps=5, schedule="cosine", warmup_steps=50, learning_rate=1.0)
    assert [float(schedule(s)) for s in range(5)] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


# Falls, stays, falls once more by too little to count, and stays again.
PLATEAU = np.concatenate(
    [
        np.linspace(2, 1, 30),
        np.random.default_rng(0).uniform(1, 1.2, 40),
        np.full(60, 0.99995),
    ]
).astype(np.float32)


def plateau_rates(losses, patience=12):
    """The rule of torch.optim.lr_scheduler.ReduceLROnPlateau with its default threshold."""
    rate, best, bad, found = 0.8, np.inf, 0, []
    for loss in losses.astype(float):
        better = loss < best * (1 - 1e-4)
        best, bad = (loss, 0) if better else (best, bad + 1)
        if bad > patience:
            rate, bad = rate / 2, 0
        found.append(rate)
    return found


@pytest.mark.slow  # torch.optim imports a compiler, which takes seconds
def test_the_rule_of_a_plateau_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=12)
    rates = []
    for loss in PLATEAU.astype(float):
        plateau.step(loss)
        rates.append(theirs.param_groups[0]["lr"])
    assert rates == plateau_rates(PLATEAU)


def test_plateau_decays_when_pytorch_does():
    optimizer, schedule = create(
        {"w": jnp.zeros(1)},
        learning_rate=0.8,
        schedule="plateau",
        decay_factor=0.5,
        plateau_patience=12,
        name="sgd",
        momentum=0.0,
    )
    state = optimizer.init({"w": jnp.zeros(1)})

    @jax.jit
    def update(state, step, loss):
        updates, state = optimizer.update({"w": jnp.ones(1)}, state, value=loss)
        return updates, state, schedule(step) * schedules.plateau_scale(state)

    for step, (loss, expected) in enumerate(zip(PLATEAU, plateau_rates(PLATEAU), strict=True)):
        updates, state, rate = update(state, step, loss)
        assert rate == pytest.approx(expected, rel=1e-6), step
        assert float(updates["w"][0]) == pytest.approx(-expected, rel=1e-6)
    assert expected == pytest.approx(0.8 / 2**7)


def test_other_schedules_have_no_plateau():
    optimizer, _ = create({"w": jnp.zeros(1)})
    assert schedules.plateau_scale(optimizer.init({"w": jnp.zeros(1)})) is None


def test_schedules_trace():
    for name in ("constant", "step", "exponential", "cosine"):
        _, schedule = create({}, schedule=name)
        steps = jnp.arange(100)
        np.testing.assert_allclose(
            jax.jit(jax.vmap(schedule))(steps),
            [schedule(s) for s in range(100)],
            rtol=1e-6,
            atol=1e-9,
        )
