"""What to type here for the names that papers and other toolkits use.

Each answer is one sentence. It is shown only where nothing is registered under the name, so a plug-in may take it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TRAINING = "is a training recipe; its classifier is"
_TO_TRAIN = "To train it too: --recipe"

_ADAPTATIONS = {
    "protonet protonets prototypical prototypical-network prototypical-networks protonet-classifier": (
        f"ProtoNet {_TRAINING}: --adapt centroid --set metric=euclidean --set features=raw. {_TO_TRAIN} protonet-conv4"
    ),
    "r2d2": f"R2D2 {_TRAINING}: --adapt ridge. {_TO_TRAIN} ridge-conv4",
    "metaoptnet-rr metaoptnet-ridge": f"MetaOptNet-RR {_TRAINING}: --adapt ridge. {_TO_TRAIN} ridge-resnet12",
    "metaoptnet metaoptnet-svm metaopt": f"MetaOptNet {_TRAINING}: --adapt svm. {_TO_TRAIN} svm-resnet12",
    "matchingnet matching-net matchingnets matching-network matching-networks": (
        f"MatchingNet {_TRAINING}: --adapt matching. {_TO_TRAIN} matching-conv4"
    ),
    "fomaml first-order-maml meta-sgd anil": (
        "It trains a network that a few gradient steps adapt (fewshot-bench ls recipes); these steps are: --adapt maml"
    ),
    "reptile boil": (
        "It trains a network that a few gradient steps adapt. The steps alone, from any network: --adapt finetune"
    ),
    "proto-maml": (
        "ProtoMAML starts MAML's steps from prototypes, which is not included. Steps from centroids, on any network: "
        "--adapt finetune. MAML itself: --recipe maml-conv4"
    ),
    "leo": "LEO is not included. MAML's gradient steps, on a network trained for them: --adapt maml",
    "meta-baseline": f"Meta-Baseline {_TRAINING}: --adapt centroid",
    "tpn transductive-propagation-network": f"TPN {_TRAINING}: --adapt label-propagation",
    "relationnet relation-network relation-networks": (
        "RelationNet trains its own measure of similarity, which is not included. The nearest is: --adapt centroid"
    ),
    "deepemd feat can frn dn4 tadam ctx cross-transformers cnaps simple-cnaps tsa url": (
        "It compares feature maps or trains a module of its own, which is not included. The nearest is: "
        "--adapt centroid"
    ),
    "nearest-centroid nearest-class-mean nearest-mean nearest-prototype ncm nmc prototype": (
        "It is called centroid: --adapt centroid"
    ),
    "cosine cosine-similarity cosine-distance": (
        "Cosine similarity to the mean of each class: --adapt centroid. A trained head of cosines: --adapt baseline++"
    ),
    "euclidean": "Euclidean distance to the mean of each class: --adapt centroid --set metric=euclidean",
    "linear-probe linear-probing linear lr logreg logistic-regression softmax linear-classifier": (
        "It is called logistic: --adapt logistic"
    ),
    "rfs rfs-simple good-embedding": (
        f"RFS classifies by logistic regression on five augmented views: --adapt logistic --set views=5. {_TO_TRAIN} "
        "rfs-conv4"
    ),
    "baseline": "The Baseline of Chen et al. trains a linear head on frozen embeddings: --adapt finetune-head",
    "baseline-plus-plus baselinepp cosine-head": "It is called baseline++: --adapt baseline++",
    "simple-shot cl2n simpleshot-cl2n": "It is called simpleshot: --adapt simpleshot",
    "nn 1nn nearest-neighbor nearest-neighbour k-nn k-nearest-neighbors k-nearest-neighbours": (
        "It is called knn: --adapt knn"
    ),
    "svc linear-svm support-vector-machine crammer-singer": "It is called svm: --adapt svm",
    "rr ridge-regression least-squares": "It is called ridge: --adapt ridge",
    "linear-discriminant-analysis discriminant": "It is called lda: --adapt lda",
    "tim-gd": "TIM by gradient descent: --adapt tim --set solver=gd",
    "tim-adm": "TIM by alternating updates: --adapt tim --set solver=adm",
    "alpha-tim": "alpha-TIM is TIM with other entropies: --adapt tim --set alpha=5",
    "ptmap pt-map-sinkhorn": "It is called pt-map: --adapt pt-map",
    "bdcspn cspn": "It is called bd-cspn: --adapt bd-cspn",
    "laplacianshot laplacian": "It is called laplacian-shot: --adapt laplacian-shot",
    "labelpropagation label-prop lp": "It is called label-propagation: --adapt label-propagation",
    "dhillon transductive-finetuning transductive-fine-tuning transductive-finetune tft": (
        "Transductive fine-tuning of a head on frozen embeddings: --adapt entropy"
    ),
    "fine-tune finetuning fine-tuning full-finetuning": "It is called finetune: --adapt finetune",
}
_LOSSES = {
    "cross-entropy crossentropy-loss xent nll softmax": "It is called ce: --loss ce",
    "supcon sup-con supervised-contrastive scl": (
        "SupCon comes with cross-entropy: --loss ce+supcon; --lambda 1 leaves SupCon alone"
    ),
    "simclr ntxent nt-xent info-nce contrastive": (
        "SimCLR's loss (NT-Xent, InfoNCE) comes with cross-entropy: --loss ce+simclr; --lambda 1 leaves it alone"
    ),
    "schane hard-negatives hard-negative": (
        "SCHaNe comes with cross-entropy: --loss ce+schane; --lambda 1 leaves SCHaNe alone"
    ),
    "triplet triplet-loss arcface cosface proxy-nca center-loss": (
        "It is not included. The nearest is --loss ce+supcon; your own: --loss mymodule:my_loss"
    ),
    "focal focal-loss mse": "It is not included. The nearest is --loss ce; your own: --loss mymodule:my_loss",
    "label-smoothing": "It is a setting of --loss ce: fewshot-bench train --label-smoothing 0.1",
}
_BACKBONES = {
    "conv4 convnet conv-net convnet4 conv-4-64 conv64 4conv cnn": (
        "Conv4 has 64 filters in ProtoNet's version and 32 in MAML's: --backbone conv4_64 or --backbone conv4_32"
    ),
    "resnet10": "The nearest in timm is --backbone timm:resnet10t; the literature's small ResNet: --backbone resnet12",
    "resnet": "Few-shot papers train --backbone resnet12; pretrained on ImageNet: --backbone timm:resnet50",
    "wrn wideresnet wide-resnet wrn-28 wrn2810": "It is called wrn28_10: --backbone wrn28_10",
    "vit vit-b vit-base vit-b16 vision-transformer": "In timm it is called --backbone timm:vit_base_patch16_224",
    "vit-s vit-small vit-s16": "In timm it is called --backbone timm:vit_small_patch16_224",
    "clip openclip clip-vit": (
        "CLIP's image encoder: --backbone timm:vit_base_patch16_clip_224.openai (its text encoder is not used)"
    ),
    "siglip": "SigLIP's image encoder: --backbone timm:vit_base_patch16_siglip_224.webli",
    "dino": "DINO's network: --backbone timm:vit_small_patch16_224.dino",
    "dinov2 dino-v2": "DINOv2's network: --backbone timm:vit_small_patch14_dinov2.lvd142m",
    "dinov3 dino-v3": "DINOv3's network: --backbone timm:vit_small_patch16_dinov3.lvd1689m",
    "mae": "MAE's network: --backbone timm:vit_base_patch16_224.mae",
    "beit": "In timm it is called --backbone timm:beit_base_patch16_224",
    "beit3 beit-3": "In timm it is called --backbone timm:beit3_base_patch16_224",
    "swin": "In timm it is called --backbone timm:swin_tiny_patch4_window7_224",
    "deit": "In timm it is called --backbone timm:deit_small_patch16_224",
    "convnext": "In timm it is called --backbone timm:convnext_tiny",
    "efficientnet": (
        "EfficientNet-Lite0 needs no hub: --backbone efficientnet_lite0; in timm: --backbone timm:efficientnet_b0"
    ),
    "mobilenet": "In timm it is called --backbone timm:mobilenetv3_large_100",
    "vgg": "In timm it is called --backbone timm:vgg16",
    "densenet": "In timm it is called --backbone timm:densenet121",
}
_NOT_INCLUDED = "It is not included. Your own copy, one folder per class, is"
_DATASETS = {
    "mini": "It is called mini-imagenet",
    "tiered": "It is called tiered-imagenet",
    "imagenet ilsvrc ilsvrc2012 imagenet2012": (
        "It is called imagenet-1k, for classification; its few-shot benchmarks are mini-imagenet and tiered-imagenet"
    ),
    "cifar few-shot-cifar": "CIFAR-100's few-shot benchmarks are cifar-fs and fc100; for classification: cifar-100",
    "few-shot-cifar100 fewshot-cifar-100": "It is called fc100",
    "cub-200 birds caltech-birds": "The few-shot benchmark is called cub; for classification: cub-200-2011",
    "omniglot-vinyals": "It is called omniglot",
    "flowers oxford-flowers vgg-flower vgg-flowers": "It is called flowers-102",
    "pets oxford-pets oxford-pet": "It is called oxford-iiit-pet",
    "caltech": "It is called caltech-256",
    "places": "It is called places365",
    "inaturalist inat inat2017": "It is called inaturalist-2017",
    "mnist": "As torchvision has it: --dataset torchvision:MNIST --root PATH",
    "kmnist": "As torchvision has it: --dataset torchvision:KMNIST --root PATH",
    "emnist": "As torchvision has it: --dataset torchvision:EMNIST --root PATH",
    "aircraft fgvc-aircraft": "As torchvision has it: --dataset torchvision:FGVCAircraft --root PATH",
    "dtd": "As torchvision has it: --dataset torchvision:DTD --root PATH",
    "traffic-signs gtsrb": "As torchvision has it: --dataset torchvision:GTSRB --root PATH",
    "cars stanford-cars": "As torchvision has it: --dataset torchvision:StanfordCars --root PATH",
    "eurosat": "As torchvision has it: --dataset torchvision:EuroSAT --root PATH",
    "meta-dataset quickdraw fungi mscoco isic chestx crop-disease crop-diseases plantvillage plantae": (
        f"{_NOT_INCLUDED} a path such as ./FOLDER"
    ),
}
_RECIPES = {
    "protonet prototypical prototypical-networks": "Its trainings are --recipe protonet-conv4 and protonet-resnet12",
    "r2d2": "R2D2 trains through ridge regression: --recipe ridge-conv4",
    "metaoptnet": "MetaOptNet trains through an SVM: --recipe svm-resnet12; through ridge regression: ridge-resnet12",
    "matchingnet matching-networks": "It is called matching-conv4: --recipe matching-conv4",
    "maml fomaml first-order-maml": "It is called maml-conv4: --recipe maml-conv4",
    "baseline": "The Baseline of Chen et al. needs no recipe: --base-loss ce --adapt finetune-head",
    "schane": "Trainings with SCHaNe are --recipe beit3-schane and, for any network, --base-loss ce+schane",
}

_BY_KIND = {
    "adaptation": _ADAPTATIONS,
    "loss": _LOSSES,
    "backbone": _BACKBONES,
    "backbone or checkpoint": _BACKBONES,
    "timm model": _BACKBONES,
    "dataset": _DATASETS,
    "benchmark": _DATASETS,
    "benchmark to import": _DATASETS,
    "recipe": _RECIPES,
}


def plain_name(name: str) -> str:
    """A name without case, hyphens, underscores and spaces."""
    return re.sub(r"[-_\s]", "", name.lower())


_ANSWERS = {
    kind: {plain_name(name): answer for names, answer in by_names.items() for name in names.split()}
    for kind, by_names in _BY_KIND.items()
}


def what_to_type(kind: str, name: str, known: Iterable[str] = ()) -> str:
    """What to type for another name of a thing, in one sentence; empty for a name that means nothing.

    Args:
        kind: of the thing, such as "adaptation".
        name: as it was typed, in any spelling.
        known: the names that are registered: one that differs in hyphens, underscores and case alone is the answer.

    >>> what_to_type("adaptation", "Nearest_Centroid")
    'It is called centroid: --adapt centroid'
    >>> what_to_type("dataset", "CIFARFS", ["cifar-fs", "fc100"])
    'It is called cifar-fs'
    """
    plain = plain_name(name)
    answer = _ANSWERS.get(kind, {}).get(plain, "")
    same = [other for other in known if plain and plain_name(other) == plain]
    return answer or (f"It is called {same[0]}" if len(same) == 1 else "")


def answered_names(kind: str) -> list[str]:
    """All names of a kind that have an answer of their own, without hyphens."""
    return list(_ANSWERS.get(kind, {}))
