def overlap_flag(pretraining: str, dataset: str) -> str:
    return ""
