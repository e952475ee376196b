"""ViT with squeeze and excitation (Aouayeb et al., 2021), trained in two stages.

Parts:
  backbone   a vision transformer (`models.vit`), whose class token is the embedding
  SE         squeeze and excitation on the class token (`models.excitation`), eq. 3:
             x * sigmoid(W2 relu(W1 x)), reduction 4; on with `model.se`
  head       a linear layer

Objective: cross-entropy of the expression.

Stage 1 trains on many faces from weights of ImageNet (config `vit_se_fer2013`), stage 2 on a small
set from the run of stage 1 (`vit_se_ckplus`, `vit_se_jaffe`, `vit_se_rafdb`, `vit_se_sfew`), on
folds of unseen persons. Each stage is a run of its own; `config.init_from` names its start. Layer
decay, MixUp and CutMix are this project's choice, see docs/vit_se.md.
"""

from affect_jax.systems.classifier import ClassifierSystem


class ViTSESystem(ClassifierSystem):
    """A transformer as a classifier.

    `model.regression` adds valence and arousal, `model.reliability` balancing, which the paper does
    not have.
    """
