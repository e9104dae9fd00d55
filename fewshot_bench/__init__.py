"""Is one few-shot image-classification method really better than another?"""

__version__ = "0.1.0"
