"""Fresh models in model directories, as if exported from a run, for tests of pictures."""

from affect_jax import config as config_lib
from affect_jax import models
from affect_jax.weights import model_dir
from data_pipelines.sources import make


def save(folder, config, name="vit_ti16", *, hierarchy=None, change=None, **arguments):
    """Write the model into `folder` and return the folder; `change` is called with the model."""
    classes = make.make_sources(config.data)["test"].class_names
    arguments = {"n_expression": len(classes), **arguments}
    if name == "vit_ti16":
        arguments = {"depth": 1, "image_size": config.data.image_size, **arguments}
    model = models.create(name, **arguments)
    if change is not None:
        change(model)
    model_dir.save_model(
        folder,
        name,
        arguments,
        model,
        preprocessing=model_dir.Preprocessing(config.data.image_size),
        class_names=classes,
        provenance={"workdir_config": config_lib.to_plain(config), "step": 7},
        hierarchy=hierarchy,
    )
    return folder
