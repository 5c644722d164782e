"""What each way to code the latents of one trained ikvae costs on the test set: real files, decoded and compared.

    python scripts/rec_rates.py RUN [--rows 10000] [--batch 500] [--samplers ad_star codebook]

The bound is the mean of `--draws` draws of the negative ELBO; tables are learned on training rows. The last column is
the latents' part by itself: the bytes of one message that holds the nodes of all rows, of the first try each.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import torch

from recipes.ikvae import BLOCK_SAMPLERS, SAMPLERS, head, naming
from toolkit.chunks.model import Settings
from toolkit.chunks.separate import AloneCoder
from toolkit.coding.message import Message
from toolkit.data.splits import spread
from toolkit.runs import build_data, load
from toolkit.training.evaluation import evaluate


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument(
        "--samplers",
        nargs="+",
        default=["ad_star", "greedy", "shortest", "codebook"],
        choices=SAMPLERS + BLOCK_SAMPLERS,
    )
    parser.add_argument("--codes", nargs="+", default=["learned"], choices=["learned", "zeta", "fixed"])
    parser.add_argument("--block-bits", type=float, help="instead of the run's own, which may be 0")
    parser.add_argument("--tries", type=int, default=1, help="with shortest_blocks: candidates tried on the pixels")
    arguments = parser.parse_args()
    run = load(arguments.run, "cpu")
    module = run.module
    if arguments.block_bits:
        module.use_blocks(arguments.block_bits)
    data = build_data(run.cfg)
    rows = spread(data.test, min(arguments.rows, len(data.test)))
    module.learn_tables(data.train[:2048], arguments.batch, 10)
    torch.manual_seed(0)
    draws = [module.parts(part).double().sum(0) for part in rows.split(500) for _ in range(arguments.draws)]
    posterior = [module.net.encode(part) for part in rows.split(500)]
    target = module.targets([torch.cat(parts) for parts in zip(*posterior, strict=True)])
    pixels, latents = (torch.stack(draws).sum(0) / arguments.draws / len(rows)).tolist()
    dims, count = rows[0].numel(), module.net.latents
    bound = pixels + latents
    print(
        f"{len(rows)} rows of {dims} values, {count} latents: negative ELBO {bound / dims:.4f} bits/dim, of which "
        f"latents {latents / dims:.4f} ({latents / float(count):.2f} bits a latent)",
        flush=True,
    )
    print(
        "| sampler | code | file, bits/dim | net | over the bound: bits an image | a latent | encode, s | decode, s "
        "| nodes alone, bits a latent |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for sampler in arguments.samplers:
        for code in arguments.codes:
            options = {"tries": arguments.tries} if sampler == "shortest_blocks" else {}
            settings = Settings(arguments.batch, 4, 0)
            coder = AloneCoder(module, functools.partial(head, sampler=sampler, code=code, **options), settings)
            with tempfile.TemporaryDirectory() as folder:
                result = evaluate(module, coder, rows, Path(folder) / "rows.tkc")
            alive = torch.ones(len(rows), dtype=torch.bool)
            names, _ = naming(module, alive, sampler, code)
            message = Message.empty(lanes=16)
            names.push(message, module.options(target, torch.arange(len(rows)), sampler)[0])
            nodes = 8 * len(message.to_bytes()) / len(rows)
            over = result["file_bpd"] * dims - bound
            encode, decode = (rows.numel() / 1e6 / result[f"speed/{way}_MB_per_s"] for way in ("encode", "decode"))
            print(
                f"| {sampler} | {code} | {result['file_bpd']:.4f} | {result['net_bpd']:.4f} | {over:.1f} | "
                f"{over / float(count):.2f} | {encode:.1f} | {decode:.1f} | {nodes / float(count):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
