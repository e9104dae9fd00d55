"""Checks that your own adaptation, loss, backbone or dataset keeps what results rely on, for your own tests.

from fewshot_bench import testing

@pytest.mark.parametrize("name", testing.ADAPTATION_PROPERTIES)
def test_my_method(name: str) -> None:
    testing.check_adaptation(MyMethod(), name)

`fewshot-bench new` writes a package with such a test.
"""

from typing import TYPE_CHECKING

from fewshot_bench._io.versions import lazily
from fewshot_bench.errors import ConformanceError as ConformanceError

if TYPE_CHECKING:
    from fewshot_bench.testing.adaptations import ADAPTATION_PROPERTIES as ADAPTATION_PROPERTIES
    from fewshot_bench.testing.adaptations import check_adaptation as check_adaptation
    from fewshot_bench.testing.backbones import BACKBONE_PROPERTIES as BACKBONE_PROPERTIES
    from fewshot_bench.testing.backbones import check_backbone as check_backbone
    from fewshot_bench.testing.datasets import DATASET_PROPERTIES as DATASET_PROPERTIES
    from fewshot_bench.testing.datasets import check_dataset as check_dataset
    from fewshot_bench.testing.losses import LOSS_PROPERTIES as LOSS_PROPERTIES
    from fewshot_bench.testing.losses import check_loss as check_loss
    from fewshot_bench.testing.packages import KINDS as KINDS
    from fewshot_bench.testing.packages import write_package as write_package

# Imported on first use: `fewshot-bench new` must not wait for torch.
_HOMES = {
    name: module
    for module, names in {
        "adaptations": ("ADAPTATION_PROPERTIES", "check_adaptation"),
        "backbones": ("BACKBONE_PROPERTIES", "check_backbone"),
        "datasets": ("DATASET_PROPERTIES", "check_dataset"),
        "losses": ("LOSS_PROPERTIES", "check_loss"),
        "packages": ("KINDS", "write_package"),
    }.items()
    for name in names
}
__all__ = sorted(["ConformanceError", *_HOMES])

__getattr__ = lazily(__name__, _HOMES)
