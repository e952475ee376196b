"""ARBEx (Wasi et al., 2023): a classifier with reliability balancing.

Parts:
  backbone   POSTER++ (`models.poster`): image features (`models.ir50`) attend to landmark features
             (`models.mobilefacenet`) in windows, at three scales
  head       linear layers with BatchNorm and dropout (`models.arbex`)
  balancing  N x K trained anchors and attention correct the head's distribution, each by its
             confidence (`models.reliability`, sections 3.3 and 3.4)

Objective (section 3.5, `losses.reliability`):

  L = NLL(final distribution, label) + lambda_a L_anchor + lambda_c L_center

  L_anchor   drives anchors of different classes apart
  L_center   draws an embedding to the nearest anchor of its class

The NLL is the classifier's cross-entropy, with label smoothing and class weights, because `logits`
of a balanced model are the log of the final distribution. Its factor is 1: under Adam only the
ratios matter. `model.reliability.enabled` gives the same part and losses to an EmoFAN, a ViT or a
ResNet. Configs: `arbex_rafdb` (the paper), `arbex_official_rafdb` (the authors' code, which
differs), `arbex_synthetic`.
"""

from affect_jax.systems.classifier import ExpressionSystem


class ArbexSystem(ExpressionSystem):
    """ARBEx, or another model with reliability balancing, on expressions.

    With `model.reliability.enabled=False` it is the classifier that the paper compares with.

    Raises:
      ConfigError: the config asks for valence and arousal, or not for expressions.
    """
