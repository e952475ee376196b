"""RALD (Liu et al., 2024): fine-grained expressions by relations and neighbours.

Parts:
  backbone   ResNet-18 (`models.resnet`), or any other model with `model.relations.enabled`
  relations  images attend to images (ITRR), labels to labels (HLRR), and images to labels (LGIFO)
             (`models.relations`, section 3.3)
  labels     word vectors of the fine and coarse classes, not trained (`weights.word_vectors`)
  tree       `model.hierarchy` (`data_pipelines.hierarchies`); without it and without
             `relations.hierarchy_bias` the system is RALD-L, for coarse classes

Objective (section 3.5, `losses.relations`):

  L = CE(P, label) + lambda_kl L_KL        (eq. 20, 21)

  L_KL   NNLDL (eq. 18, 19): the cross-entropy of a prediction to those of its nearest images in the
         global batch; on with `model.relations.nnldl`

In prediction there is no batch of training images. `model.relations.context` says what an image is
compared with instead: a bank that goes with the model, or nothing. Configs: `rald_fg_emotions` (the
paper), `rald_fg_emotions_modern`, `rald_l_rafdb`, `rald_l_affectnet7`, `rald_synthetic`,
`rald_faces`.
"""

from affect_jax.systems.classifier import ExpressionSystem


class RaldSystem(ExpressionSystem):
    """RALD, or another model with relations, on expressions.

    With `model.relations.enabled=False` it is the classifier that the paper compares with.

    Raises:
      ConfigError: the config asks for valence and arousal, or not for expressions.
    """
