"""`python -m distillgan_cli`."""

from .main import main

main()
