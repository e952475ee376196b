"""Every field of a configuration with its default; other configs change some.

This file is not an experiment. Override any value on the command line as
`--config.section.field=value`.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from affect_jax import models
from data_pipelines import defaults
from data_pipelines.images.presets import Params


def get_config() -> ConfigDict:
    """Return the defaults of every field."""
    config = ConfigDict()

    config.seed = 0  # initialisation, order, augmentation, dropout
    config.batch_size = 64  # global: over all devices and processes
    config.num_epochs = 30.0
    config.num_steps = placeholder(int)  # wins over num_epochs when set
    config.log_every = 20  # steps between training rows of metrics.jsonl
    config.eval_every = 0  # steps between validations; 0: once an epoch, and at the end
    # Weights to start from: model directory, workdir or released file; "A,B": one per part.
    config.init_from = ""
    config.init_allow = ()  # prefixes of names that may be missing or unused in it

    config.system = "emofan"  # arbex, classifier, emofan, fan, rald, vit_se: see affect_jax/systems
    config.model = model("emofan")

    config.landmark_stage = ConfigDict(
        dict(
            steps=0,  # train only the landmark trunk first, for this many of the run's steps
            data="own",  # own, or synthetic: embedded faces, for data without landmarks
            learning_rate=1e-3,
        )
    )

    config.loss = ConfigDict(
        dict(
            regression="shake_shake",  # valence and arousal: shake_shake, ccc, mse, pcc, none
            categories=True,  # cross-entropy on the expression
            label_smoothing=0.0,
            # none, balanced (1 / frequency), sqrt_balanced, or numbers "1,2,..."
            class_weights="none",
            heatmap_weight=0.0,  # weight of heatmap regression in the sum; 0: off
            heatmap_sigma=1.0,  # standard deviation of a target peak, in heatmap pixels
            distillation_weight=0.0,  # fraction of KL(teacher || student) in the class loss; 0: off
            teacher="",  # model directory or workdir of the teacher
            # For models with model.reliability.enabled; see affect_jax/losses/reliability.py.
            reliability=dict(
                variant="bounded",  # bounded, paper, official
                lambda_anchor=0.1,  # weight of the anchor loss
                lambda_center=1.0,  # weight of the centre loss
                # bounded: minimum distance and maximum norm of anchors, over sqrt(embedding length)
                margin=1.0,
                radius=2.0,
            ),
            # For models with model.relations.enabled; see affect_jax/losses/relations.py.
            relations=dict(
                lambda_kl=1.0,  # weight of the loss of model.relations.nnldl
                neighbours=5,  # images that a prediction is drawn to
                reduction="mean",  # mean: over images and classes; batchmean: over images
            ),
        )
    )

    # Images and labels of a training batch, blended in pairs; see affect_jax/training/mixing.py.
    # Mixed examples have no landmarks, so loss.heatmap_weight acts on the other examples only.
    config.mixing = ConfigDict(
        dict(
            mixup_alpha=0.0,  # MixUp with lambda ~ Beta(alpha, alpha); 0: off
            cutmix_alpha=0.0,  # CutMix, the same; 0: off
            switch=0.5,  # fraction of CutMix if both are on
            probability=1.0,  # fraction of the batches that are mixed
        )
    )

    config.optimizer = ConfigDict(
        dict(
            name="adam",  # adam, adamw, sgd
            learning_rate=1e-3,
            schedule="step",  # constant, step, exponential, cosine, plateau
            step_epochs=15.0,  # step: epochs between decays
            decay_factor=0.1,  # factor: step, plateau: per decay; exponential: per epoch
            plateau_patience=100,  # plateau: steps without a lower loss before a decay
            final_fraction=0.0,  # cosine: final learning rate over learning_rate
            warmup_steps=0,
            warmup_epochs=0.0,  # used when warmup_steps is 0
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            momentum=0.9,
            nesterov=False,
            weight_decay=0.0,  # of kernels only; see optim.has_weight_decay
            clip_norm=0.0,  # global norm of the gradient; 0: off
            sam_rho=0.0,  # sharpness-aware minimisation, at twice the cost of a step; 0: off
            layer_decay=1.0,  # learning rate of a block / rate of the next block; 1: off
            freeze=(),  # path prefixes or regular expressions of parameters not to train
        )
    )
    config.ema_decay = 0.0  # exponential moving average of the weights, used in evaluation; 0: off

    # Documented, with defaults and ranges, in data_pipelines/defaults.py.
    config.data = ConfigDict(defaults.section())
    config.data.source = "synthetic"
    overrides = {f.name: placeholder(f.type) for f in dataclasses.fields(Params)}
    config.data.augment_overrides = ConfigDict(overrides)

    config.eval = ConfigDict(
        dict(
            batch_size=0,  # 0: as in training
            flip=True,  # test: also report valence and arousal averaged over mirror images
            # After training, also test class probabilities averaged over mirror images (with flip),
            # and with a temperature fitted on validation. Corrections must beat these baselines.
            calibrate=False,
            video=False,  # test: also average outputs over the last five frames
            min_count=10,  # classes with fewer true examples are left out of macro scores
            # For models with model.relations: also test with banks of these numbers of images, for
            # example (32, 512). Contexts are in docs/evaluation.md.
            bank_sizes=(),
            split="test",  # --mode=eval: the split; all: every row of a manifest or folder
            checkpoint="best",  # --mode=eval: best, latest, or a step
            # --mode=eval: write the model's features of all splits to this .npz file instead; see
            # docs/features.md.
            features="",
        )
    )

    config.checkpoint = ConfigDict(
        dict(
            every=200,  # steps
            keep=2,  # number of latest checkpoints to keep; the best is kept too
            # Validation metric that chooses the best; "loss" covers the outputs that are trained.
            best_metric="loss",
            best_mode="auto",  # max, min, or auto: by the metric
        )
    )

    config.parallel = ConfigDict(dict(mapping="pmap"))  # pmap, shard_map
    # --mode=sweep, for files with a get_sweep(); see docs/sweeps.md.
    config.sweep = ConfigDict(
        dict(
            rows="",  # names or patterns of the rows to run: "a,b*"; "": all
            seeds="",  # replaces the seeds of the file: "0,1"
            report_only=False,  # write the table of finished runs; train nothing
            pictures=False,  # draw a report for every run too, in seconds
        )
    )
    # --mode=crossval; see docs/sweeps.md.
    config.crossval = ConfigDict(
        dict(
            protocol="folds",  # folds, leave_one_out
            folds=5,  # disjoint by person, about equal in size and classes; data.split_seed
            only="",  # folds to run: "0,3"; "": all
        )
    )
    config.report = ConfigDict(
        dict(
            faces=16,  # test faces drawn in the report
            pictures=True,  # False: draw them later, by `python -m affect_jax.report`
        )
    )
    # Folder of compiled programs; "": ~/.cache/affect_jax/programs, for all runs; "off": none.
    config.compilation_cache = ""

    return config


def model(name: str, **changes: Any) -> ConfigDict:
    """Return the section `model`: every field of a model that a config can set.

    Its fields are the constructor arguments of the model with their defaults. The class of the
    model describes them. `--config.model.name=X` replaces them by the fields of X. Further fields:

      name: see `affect_jax.models.names()`
      dtype: "float32" or "bfloat16" for the computation; parameters, statistics and losses are
        float32
      hierarchy: tree over the classes, for the metrics and for models that use one: a name such
        as "fg_emotions" or the path of a TOML file, see docs/hierarchies.md; "": none
      mean, std: the model's input is (RGB - mean) / std, with RGB in [0, 1]
      remat: what training keeps for the backward pass: "none" (everything), "products" (results of
        convolutions and matrix products; the rest is computed again), "blocks" (ViT: the inputs of
        its blocks); see docs/performance.md
      train_trunk: EmoFAN only; False freezes the landmark trunk and its statistics
      relations: relations between images and labels (RALD), off unless `enabled`; see
        `affect_jax.models.relations_settings`. Its loss is in `loss.relations`.
      reliability: reliability balancing, off unless `enabled`; see
        `affect_jax.models.reliability_settings`. Its losses are in `loss.reliability`.

    Args:
      name: of the model.
      **changes: values that differ from the defaults.
    """
    section = ConfigDict({"name": name, **models.section(name), "hierarchy": ""})
    section.mean, section.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    section.remat = "none"
    if name == "emofan":
        section.train_trunk = True
    section.lock()
    section.update(changes)
    return section.unlock()
