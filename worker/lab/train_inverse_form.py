"""Train the small network of SAZS's shape loss on drawn edges, and write the weights that are shipped.

    python -m worker.lab.train_inverse_form worker/learning/recipes/dense/inverse_form.safetensors
"""

from __future__ import annotations

from pathlib import Path

import click
from safetensors.torch import save_file

from worker.learning.recipes.dense.inverse_form import train_regressor


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--steps", default=800, show_default=True, help="Batches of drawn edges.")
@click.option("--seed", default=0, show_default=True)
def main(file: Path, steps: int, seed: int) -> None:
    """Write the weights to FILE, half precision."""
    regressor, error = train_regressor(steps=steps, seed=seed)
    save_file({name: values.half().contiguous() for name, values in regressor.state_dict().items()}, file)
    click.echo(f"{file}: {file.stat().st_size} bytes; mean error {error:.3f} (half tiles, logarithm of the scale)")


if __name__ == "__main__":
    main()
