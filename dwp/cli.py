"""Console script `dwp`: commands for priors and files of weights, and those of the workflow, if installed."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwp.errors import InputError, extra

if TYPE_CHECKING:
    from dwp.priors.base import Prior

# Commands of `dwp.results.cli`, which needs the extra `workflow`.
WORKFLOW = {
    "versions": "list versions: what made them, size, age, who uses them",
    "diff": "say why two versions differ",
    "verify": "recompute checksums; name what is missing or damaged",
    "challenge": "make a version again and compare it, file by file",
    "push": "copy finished results to a shared store: a folder, s3://…, sftp://…",
    "pull": "copy results from a shared store, so that a run makes only what is missing",
    "export": "write a version with its provenance as an RO-Crate",
    "prune": "show, and with --yes delete, what no configuration needs",
}

EPILOG = """\
examples:
  dwp fit checkpoints/ --size 3 --out prior.safetensors
  dwp sample prior.safetensors -n 64 --out kernels.png
  dwp init model.safetensors --prior prior.safetensors --out initialised.safetensors
  dwp versions                                   what is there, and what config.yaml uses
  dwp versions --configfile config/smoke.yaml    … and what another configuration uses
  dwp versions --config data_root=/my/data       values as with snakemake --config
  dwp diff 1a2b priors/vae-7x7                   why two versions differ
  dwp verify                                     is every file as it was written?
  dwp challenge priors/vae-7x7                   does this machine make the same?
  dwp push s3://group/dwp                        share what config.yaml has made
  dwp pull s3://group/dwp                        … and take what others have made
  dwp export report --crate crate                the report and how it was made, for others
  dwp prune --configfile config/smoke.yaml       show what neither config.yaml nor smoke needs
  dwp prune --configfile config/smoke.yaml --yes … and delete it

exit status: 0 all well, 1 files are missing, damaged, different or in no manifest, 2 the command could not be
carried out
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 1 if `verify` or `challenge` finds faults, 2 for an error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in WORKFLOW:
            with extra("workflow", f"dwp {words[0]}"):
                from dwp.results import cli
            return cli.main(words)
        options = _parser().parse_args(words)
        logging.basicConfig(format="dwp: %(message)s", level=logging.INFO)
        options.run(options)
        return 0
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed the pipe.
        sys.stderr.close()
        return 0
    except (InputError, FloatingPointError, OSError) as error:
        print(f"dwp: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("dwp", "dwp [-h] COMMAND ...", epilog=EPILOG, formatter_class=style)
    commands = parser.add_subparsers(metavar="COMMAND", prog="dwp", help=argparse.SUPPRESS, required=True)
    own: dict[str, str] = {}

    def command(name: str, run: Callable, summary: str) -> argparse.ArgumentParser:
        own[name] = summary
        added = commands.add_parser(name, description=run.__doc__)
        added.set_defaults(run=run)
        return added

    def seeded(added: argparse.ArgumentParser) -> None:
        added.add_argument("--seed", type=_seed, default=0, help="seed of all random numbers (default: 0)")

    prior = "a file written by the workflow, `dwp fit` or dwp.save_prior; or a name that dwp.load_prior takes"
    added = command("info", _info, "show kind, size, settings and held-out log density of a prior")
    added.add_argument("prior", metavar="PRIOR", help=prior)
    added.add_argument("--json", action="store_true", help="print JSON")

    added = command("sample", _sample, "draw kernels from a prior, as a picture or an array")
    added.add_argument("prior", metavar="PRIOR", help=prior)
    added.add_argument("-n", type=int, default=64, help="number of kernels (default: 64)")
    added.add_argument("--out", metavar="FILE", required=True, help=".png, .npy or .safetensors")
    added.add_argument("--mean", action="store_true", help="without the last layer of noise, if there is one")
    seeded(added)

    added = command("fit", _fit, "fit a prior to the kernels of trained networks")
    files = "checkpoints (.safetensors, .pt, .onnx), arrays (.npy, .h5), or folders of them"
    added.add_argument("paths", metavar="PATH", nargs="+", help=files)
    added.add_argument("--size", type=int, required=True, help="kernel size k of the k×k kernels")
    kinds = (
        "vae, whitened_vae, arbitrary_conditioning_vae, pairwise_augmented_gan, metropolis_hastings, flow, "
        "flow_matching, mixture, gaussian, gaussian_mixture, student_t or empirical (default: vae)"
    )
    added.add_argument("--kind", default="vae", help=kinds)
    added.add_argument("--out", metavar="FILE", required=True, help="file of the prior")
    threshold = "norm below which kernels are dropped (0 keeps all), or otsu or valley (default: otsu)"
    added.add_argument("--threshold", default="otsu", help=threshold)
    added.add_argument("--most", type=int, help="fit to a random sample of at most this many kernels")
    added.add_argument(
        "--test-fraction", type=float, default=0.2, help="fraction of kernels held out (default: 0.2)"
    )
    added.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting of the prior, such as latent=4 or schedule.steps=3000; repeat for more",
    )
    added.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    seeded(added)

    added = command("init", _init, "draw the convolutions in a file of weights from priors")
    added.add_argument("source", metavar="FILE", help="a state dict, .safetensors or .pt")
    added.add_argument(
        "--prior", metavar="PRIOR", dest="priors", nargs="+", required=True, help="one for each kernel size"
    )
    added.add_argument("--out", metavar="FILE", required=True, help="the new state dict, .safetensors or .pt")
    added.add_argument("--mean", action="store_true", help="without the last layer of noise, if there is one")
    added.add_argument(
        "--as-drawn", action="store_true", help="keep the scale of the prior, not that of He's rule"
    )
    seeded(added)

    for name in WORKFLOW:
        commands.add_parser(name)  # handled by `main`; here for the error of an unknown command
    parser.description = "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:9} {summary}" for name, summary in group.items())
        for title, group in (
            ("priors and weights", own),
            ("results of the workflow (pip install 'dwp[workflow]')", WORKFLOW),
        )
    )
    return parser


# Commands


def _info(options: argparse.Namespace) -> None:
    """Show what a prior is: kind, kernel size, settings, number of parameters, density and samples.

    The held-out log density is shown if `dwp fit` or dwp.fit_prior has recorded it.
    """
    import dwp

    facts = _facts(dwp.load_prior(options.prior))
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    found = facts["held_out"]
    if found:
        bound = f", importance-weighted bound, K = {found['samples']}" if found["samples"] > 1 else ""
        facts["held_out"] = (
            f"{found['log_prob']:.2f} ± {found['standard_error']:.2f} nats per kernel "
            f"({found['kernels']} kernels{bound})"
        )
    facts["kernel_size"] = "{0}×{0}".format(facts["kernel_size"])
    facts["settings"] = ", ".join(f"{name} {value}" for name, value in facts["settings"].items())
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):12} {value or '-'}")


def _facts(prior: "Prior") -> dict[str, Any]:
    kind = prior.settings_class
    density = "none" if not kind.has_density else "exact" if prior.exact else "lower bound"
    return {
        "kind": prior.kind,
        "kernel_size": prior.kernel_size,
        "settings": prior.settings,
        "parameters": sum(tensor.numel() for tensor in prior.state_dict().values()),
        "log_density": density,
        "samples": "yes" if kind.has_samples else "no",
        "held_out": prior.held_out,
    }


def _sample(options: argparse.Namespace) -> None:
    """Draw kernels from a prior.

    A .png shows them side by side (grey is zero); a .npy has an array [n, 1, k, k]; a .safetensors has it
    as the tensor `kernels`.
    """
    import numpy as np
    import torch

    import dwp
    from dwp.files import atomic_write, save_tensors
    from dwp.kernels.pictures import grid

    out = Path(options.out)
    if out.suffix not in (".png", ".npy", ".safetensors"):
        raise InputError(f"--out: {out} has suffix {out.suffix!r}; use .png, .npy or .safetensors")
    if options.n < 1:
        raise InputError(f"-n: {options.n} kernels; expected a whole number from 1")
    if out.suffix == ".png":
        with extra("workflow", f"--out {out}"):
            from PIL import Image
    generator = torch.Generator().manual_seed(options.seed)
    kernels = dwp.load_prior(options.prior).sample(options.n, generator, mean=options.mean)
    if out.suffix == ".safetensors":
        save_tensors({"kernels": kernels.contiguous()}, out)
    else:
        with atomic_write(out) as temporary:
            if out.suffix == ".npy":
                np.save(temporary, kernels.numpy())
            else:
                Image.fromarray(grid(kernels.numpy())).save(temporary)
    print(f"{out}: {options.n} kernels of {kernels.shape[-1]}×{kernels.shape[-1]}")


def _fit(options: argparse.Namespace) -> None:
    """Fit a prior to the k×k kernels of trained networks, without those of near-zero norm.

    Settings that are not given have the defaults of dwp.fit_prior. Progress is logged.
    """
    import dwp
    from dwp.training.devices import choose_device

    settings = _settings(options.set)
    device = choose_device(options.device)
    threshold = _threshold(options.threshold)
    kernels = dwp.collect(
        options.paths, options.size, threshold=threshold, most=options.most, seed=options.seed
    )
    print(f"{len(kernels)} kernels of {options.size}×{options.size}", flush=True)
    prior = dwp.fit_prior(
        kernels.to(device), options.kind, test_fraction=options.test_fraction, seed=options.seed, **settings
    )
    dwp.save_prior(prior, options.out)
    _info(argparse.Namespace(prior=options.out, json=False))


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 0")
    return int(text)


def _threshold(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _settings(entries: Sequence[str]) -> dict[str, Any]:
    """Return settings from NAME=VALUE, where a dot in the name stands for a nested setting."""
    settings: dict[str, Any] = {}
    for entry in entries:
        path, separator, text = entry.partition("=")
        if not path or not separator:
            raise InputError(f"--set: {entry!r}; expected NAME=VALUE, such as latent=4")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *outer, name = path.split(".")
        inside = settings
        for one in outer:
            inside = inside.setdefault(one, {})
        inside[name] = value
    return settings


def _init(options: argparse.Namespace) -> None:
    """Draw every convolution in a state dict from the prior of its kernel size, and write a new file.

    A convolution is a four-dimensional floating-point tensor named *.weight. The rest is copied.
    """
    import dwp
    from dwp.state_dicts import init_file

    priors = [dwp.load_prior(prior) for prior in options.priors]
    done = init_file(
        options.source,
        options.out,
        priors,
        seed=options.seed,
        mean=options.mean,
        as_drawn=options.as_drawn,
    )
    width = max(map(len, done))
    for name, what in done.items():
        print(f"{name:{width}}  {what}")
