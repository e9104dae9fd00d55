"""`python -m fewshot_bench` is the command `fewshot-bench`."""

from fewshot_bench.cli.main import main

main()
