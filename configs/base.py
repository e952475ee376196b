"""Every field of a configuration, documented once; the other configs change what they need.

This file is no experiment of its own. Override any value on the command line as
`--config.section.field=value`.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Defaults of every field."""
    config = ConfigDict()

    config.seed = 0  # initialisation, order, augmentation, dropout
    config.batch_size = 64  # global: over all devices and processes
    config.num_epochs = 30.0
    config.num_steps = placeholder(int)  # wins over num_epochs when set
    config.log_every = 20  # steps between training rows of metrics.jsonl
    config.eval_every = 0  # steps between validations; 0: once an epoch, and at the end
    # Weights to start from: model directory, workdir or released file; "A,B": one for each part.
    config.init_from = ""
    config.init_allow = ()  # names (prefixes) that init_from may leave out or not use

    config.system = "emofan"  # which objective: see affect_jax/systems
    # The constructor arguments of the model `name`, and how it is fed and trained.
    config.model = ConfigDict(
        dict(
            name="emofan",  # see affect_jax.models.names()
            width=256,  # features of the face-alignment trunk
            depth=4,  # levels of an hourglass
            stacks=2,  # hourglasses
            emotion_blocks=4,  # ConvBlock + pooling pairs of the emotion branch
            attention=True,  # multiply features by the summed heatmaps
            decode="quarter",  # landmarks off heatmaps: quarter, parabola, centroid
            se=False,  # squeeze and excitation on the pooled features
            # Reliability balancing: None (off), True (the defaults of `reliability` below), or
            # settings as dict(anchors=4), the rest as there. Its losses: loss.reliability.
            reliability=placeholder(object),
            train_trunk=True,  # False: the landmark trunk stays as it is, statistics too
            dtype="float32",  # compute type; parameters, statistics and losses are float32
            mean=(0.0, 0.0, 0.0),  # taken from RGB in [0, 1]
            std=(1.0, 1.0, 1.0),
        )
    )

    config.landmark_stage = ConfigDict(
        dict(
            steps=0,  # first train only the landmark trunk, for this many of the run's steps
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
            heatmap_weight=0.0,  # weight of heatmap regression beside the emotion losses
            heatmap_sigma=1.0,  # standard deviation of a target peak, in heatmap pixels
            distillation_weight=0.0,  # share of KL(teacher || student) in the categories; 0: off
            teacher="",  # model directory or workdir of the teacher
            # Of a model with model.reliability; see affect_jax/losses/reliability.py.
            reliability=dict(
                variant="bounded",  # bounded, paper, official
                lambda_anchor=0.1,  # weight of the anchor loss beside the cross-entropy
                lambda_center=1.0,  # weight of the centre loss
                # bounded: least distance of anchors and largest norm, over sqrt(embedding length)
                margin=1.0,
                radius=2.0,
            ),
        )
    )

    # Training batches blended in pairs, examples and labels alike; see
    # affect_jax/training/mixing.py. Mixed examples have no landmarks, so that loss.heatmap_weight
    # is left with the others.
    config.mixing = ConfigDict(
        dict(
            mixup_alpha=0.0,  # MixUp with lambda ~ Beta(alpha, alpha); 0: off
            cutmix_alpha=0.0,  # CutMix, the same; 0: off
            switch=0.5,  # with both on: the share of CutMix
            probability=1.0,  # share of the batches that are mixed
        )
    )

    config.optimizer = ConfigDict(
        dict(
            name="adam",  # adam, adamw, sgd
            learning_rate=1e-3,
            schedule="step",  # constant, step, exponential, cosine, plateau
            step_epochs=15.0,  # step: epochs between decays
            decay_factor=0.1,  # step and plateau: at each decay; exponential: each epoch
            plateau_patience=100,  # plateau: steps without a lower training loss before a decay
            final_fraction=0.0,  # cosine: where it ends, as a share of learning_rate
            warmup_steps=0,
            warmup_epochs=0.0,  # used when warmup_steps is 0
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            momentum=0.9,
            nesterov=False,
            weight_decay=0.0,  # of kernels; see optim.has_weight_decay
            clip_norm=0.0,  # global norm of the gradient; 0: off
            sam_rho=0.0,  # sharpness-aware minimisation, at twice the cost of a step; 0: off
            layer_decay=1.0,  # learning rate of each block over that of the next one; 1: off
            freeze=(),  # path prefixes or regular expressions of parameters that stay as they are
        )
    )
    config.ema_decay = 0.0  # exponential moving average of the weights, used in evaluation; 0: off

    config.data = ConfigDict(
        dict(
            source="synthetic",  # synthetic, manifest, folder, tfds
            manifest="",  # CSV or JSONL file
            folder="",  # a folder with one folder a class
            dataset="",  # tfds: name of the data set, prepared by data_pipelines.prepare
            data_dir="",  # tfds: where it was prepared
            synthetic=dict(
                num_train=4096,
                num_validation=512,
                num_test=512,
                render_size=128,  # side of the rendered picture
                seed=0,
                version=1,  # of the renderer's appearance and labels
                frames_per_video=4,
                videos_per_person=4,
                frame_time=0.35,  # between frames; expressions and heads sway once in 1.3 to 5
                imbalance=1.0,  # most over least frequent class
                symmetric_noise=0.0,  # training labels replaced by any other class
                confusable_noise=0.0,  # ... by the class they are mistaken for
                missing_expression=0.0,  # training labels left out
                missing_valence_arousal=0.0,
                missing_landmarks=0.0,
                domain="a",  # camera: a, b
                test_domain="",  # camera of the test split; "": the same
            ),
            # "": inferred; a known label order such as "affectnet8"; or "a,b,c". Labels that are
            # numbers are ids of that order; in a list they are positions from 0.
            classes="",
            clean=False,  # AffectNet: drop training rows whose category contradicts their VA
            clean_eval=False,  # the same for validation and test
            exclude="",  # text file, a path a line: wrong pictures left out of validation and test
            exclude_train=False,  # leave them out of training as well
            validation_fraction=0.15,  # share of the training persons held out for model selection
            # split; or one fold of a cross-validation: folds, leave_one_out (all records are cut
            # into even folds by person and test_fold is tested on; see --mode=crossval)
            protocol="split",
            folds=4,  # without a split column: test = sha256(person) mod folds == test_fold
            test_fold=1,
            split_seed=0,
            image_size=256,
            crop="auto",  # auto (landmark box, else box, else whole), landmarks, box, whole
            crop_scale=0.0,  # side of the crop over the box; 0: the preset's own
            augment="emofan",  # emofan, arbex_heavy, poster, vit, none
            # Replace values of the preset; see data_pipelines.images.presets.Params.
            augment_overrides=dict(
                fit=placeholder(str),
                random_crop=placeholder(bool),
                box_scale=placeholder(float),
                margin=placeholder(float),
                rotation=placeholder(float),
                scale=placeholder(float),
                translation=placeholder(float),
                flip=placeholder(float),
                brightness=placeholder(float),
                contrast=placeholder(float),
                saturation=placeholder(float),
                hue=placeholder(float),
                grey=placeholder(float),
                blur=placeholder(float),
                blur_sigma=placeholder(float),
                noise=placeholder(float),
                noise_std=placeholder(float),
                jpeg=placeholder(float),
                jpeg_quality=placeholder(float),
                erase=placeholder(float),
                erase_area=placeholder(float),
            ),
            max_pixels=50_000_000,  # larger pictures are refused before decoding
            sampling="shuffle",  # shuffle, refine, inverse_frequency
            refine=dict(per_group=512, per_class=500),
            num_workers=0,  # worker processes; 0: threads only
            num_threads=0,  # 0: as many as usable cores
            prefetch=0,  # batches kept ready; 0: automatic
            cache="none",  # none, memory (decoded crops; small sets)
            cache_megabytes=2048,
            max_bad_fraction=0.1,  # more unreadable records than this stop the run
            # Go on with a run, sweep or cross-validation though its data have changed since it
            # began; they are recorded anew. False: such a run is refused, naming the difference.
            accept_changed=False,
        )
    )

    config.eval = ConfigDict(
        dict(
            batch_size=0,  # 0: as in training
            flip=True,  # test: also report valence and arousal averaged over mirror images
            # After training: classes flip-averaged (with flip) and with a temperature that the
            # validation persons choose, what any correction of predictions has to beat.
            calibrate=False,
            video=False,  # test: also average each frame's outputs with those of the last four
            min_count=10,  # classes with fewer true examples are left out of macro scores
            split="test",  # --mode=eval: which split; all: every row of a manifest or folder
            checkpoint="best",  # --mode=eval: best, latest, or a step
        )
    )

    config.checkpoint = ConfigDict(
        dict(
            every=200,  # steps
            keep=2,  # latest ones kept, beside the best
            # A validation metric; the loss is that of the outputs which are trained.
            best_metric="loss",
            best_mode="auto",  # auto (known for every metric), max, min
        )
    )

    config.parallel = ConfigDict(dict(mapping="pmap"))  # pmap, shard_map
    # --mode=sweep, for files with a get_sweep(); see docs/sweeps.md.
    config.sweep = ConfigDict(
        dict(
            rows="",  # names or patterns of the rows to run, "a,b*"; "": all
            seeds="",  # instead of the file's, "0,1"
            report_only=False,  # draw the table of what is there, train nothing
            pictures=False,  # every cell draws its own report too, which takes seconds
        )
    )
    # --mode=crossval; see docs/sweeps.md.
    config.crossval = ConfigDict(
        dict(
            protocol="folds",  # folds, leave_one_out
            folds=5,  # person-independent, about even in size and classes, drawn by data.split_seed
            only="",  # folds to run, "0,3"; "": all
        )
    )
    config.report = ConfigDict(
        dict(
            faces=16,  # test faces drawn in the report
            pictures=True,  # False: they are left to `python -m affect_jax.report`
        )
    )
    config.compilation_cache = ""  # folder for compiled programs; "": workdir/.jax_cache; "off"

    return config


def reliability(**changes: Any) -> FieldReference:
    """A `model.reliability` with every setting, for configs that are about them.

    Each is a field of its own, `--config.model.reliability.anchors=4`. As a whole it can be None
    (off), True or a dict of settings; these begin from the defaults here, not from `changes`.
    """
    settings = ConfigDict(
        dict(
            normalise=True,  # standardise the embedding first
            anchors=10,  # per class; 0: only the attentive correction
            anchor_scale=1.0,  # standard deviation of their components at the start
            delta=1.0,  # temperature of the distances
            scope="example",  # attention within an embedding, or across the "batch"
            tokens=8,  # pieces of an embedding that attend to each other; with "example"
            heads=4,  # of the attention
            attention_per_class=1,  # outputs of the attention; with "batch"
            correction="weighted",  # weighted (= both), geometric, attentive, off, trust
            ramp_steps=0,  # of "trust"; 0: all steps that train classes, if num_steps is set
            temperature=1.0,  # of the primary logits
            epsilon=1e-4,  # of the confidence weights
            detach_confidence=False,  # no gradient through confidences
        )
    )
    settings.update(changes)
    return FieldReference(settings, field_type=object)


def poster(**changes: Any) -> dict[str, Any]:
    """Every size of a POSTER++, those of the released networks but for `changes`."""
    return (
        dict(
            input_size=112,  # what both networks see; a multiple of 16
            image_width=64,
            image_stages=(3, 4, 14),
            landmark_width=64,
            landmark_stages=(4, 6, 2),
            dims=(64, 128, 256),  # of the cross-attention at 1/4, 1/8 and 1/16 of input_size
            windows=(28, 14, 7),
            heads=(2, 4, 8),
            layer_scale=1e-5,  # where the factors of the cross-attention start
            drop_path=0.25,  # stochastic depth of the third scale
            embedding=768,
            vit_depth=2,
            vit_heads=8,
            positions="normal",  # of the transformer's tokens at the start: normal, waves
        )
        | changes
    )
