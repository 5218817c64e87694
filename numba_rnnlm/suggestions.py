"""Suggests what a wrong name probably meant: another tool's name for one of our flags or values, or a misspelling."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

FLAGS = {  # our flag → its names in Keras, PyTorch, their examples, and other language model trainers; "-" and "_" are equivalent
    "--learning-rate": "lr eta alpha step-size init-lr base-lr start-lr",
    "--streams": "batch-size batch bs bsz b minibatch mini-batch-size train-batch-size per-device-train-batch-size",
    "--hidden": "hidden-size hidden-dim hidden-units hidden-layer-size nhid n-hid n-hidden num-hidden units num-units n-units rnn-size rnn-units "
                "rnn-hidden-size hsz cell-size state-size size",
    "--layers": "num-layers nlayers n-layers number-of-layers layer depth rnn-layers",
    "--steps": "seq-len seq-length sequence-length sequence-len bptt bptt-len time-steps timesteps num-steps n-steps unroll unroll-length maxlen "
               "max-seq-len max-length block-size context context-size context-length input-length",
    "--embedding": "emsize em-size embed-size embed-dim embed embedding-size embedding-dim emb-size emb-dim emb input-size input-dim output-dim "
                   "word-dim d-model",
    "--cell": "rnn rnn-type cell-type layer-type unit-type model model-type",
    "--architecture": "arch net network network-type",
    "--kernel": "kernel-size kernel-width ksize filter-size",
    "--window": "sliding-window",
    "--dropout": "dropout-rate drop drop-rate dropout-prob p-drop dropouti dropouth keep-prob recurrent-dropout",
    "--tied": "tie tie-weights tied-weights tie-embeddings tie-word-embeddings share-embeddings weight-tying",
    "--initializer": "init initialization kernel-initializer initialiser weight-init",
    "--initializer-scale": "init-range init-scale initrange param-init uniform-init",
    "--forget-bias": "unit-forget-bias lstm-bias",
    "--tokenizer": "level tokens token-level tokenization tokenizer-type unit char-level word-level",
    "--max-vocabulary": "vocab vocab-size vocabulary vocabulary-size max-vocab max-vocab-size num-words max-tokens max-features",
    "--min-count": "min-freq min-frequency min-word-freq cutoff unk-threshold",
    "--epochs": "epoch num-epochs n-epochs nb-epoch nb-epochs max-epochs max-epoch max-max-epoch num-train-epochs iterations iters max-iters max-steps passes e",
    "--optimizer": "optim opt optimiser algorithm solver",
    "--weight-decay": "wd wdecay l2 l2-reg weight-penalty",
    "--schedule": "scheduler lr-scheduler lr-schedule lr-scheduler-type lr-decay-style annealing learning-rate-schedule",
    "--warmup": "warmup-ratio warmup-steps warmup-proportion warmup-updates num-warmup-steps",
    "--decay-factor": "lr-decay decay-rate gamma factor lr-shrink learning-rate-decay",
    "--decay-after": "lr-decay-after decay-start start-decay-at learning-rate-decay-after",
    "--clip-norm": "clip clipnorm grad-clip gradient-clip gradient-clipping max-grad-norm clip-grad clip-grad-norm global-clipnorm max-norm",
    "--clip-value": "clipvalue clip-grad-value",
    "--patience": "early-stopping early-stop early-stopping-patience stop-after",
    "--validate-every": "eval-every eval-interval eval-steps eval-freq valid-every val-every val-interval validation-freq validation-interval "
                        "log-interval log-every report-every eval-val-every val-check-interval",
    "--max-seconds": "time time-limit max-time timeout wall-time walltime seconds duration budget max-minutes max-hours",
    "--verbose": "quiet silent q v verbosity progress",
    "--valid": "validation validation-data valid-data valid-file val val-data val-file dev dev-data dev-file eval-data eval-file test held-out heldout",
    "--out": "output o output-file output-dir save save-path save-to save-dir save-model model-path model-out model-dir dest",
    "--from": "init-from load load-model model-in pretrained pretrained-model finetune fine-tune weights start start-from warm-start",
    "--checkpoint": "checkpoint-path checkpoint-dir checkpoint-file ckpt ckpt-path cp",
    "--checkpoint-every": "save-every save-steps save-interval checkpoint-interval checkpoint-freq save-freq",
    "--resume": "resume-from restore restart resume-from-checkpoint continue continue-from load-checkpoint",
    "--log": "log-file logfile csv csv-log csv-logger log-csv logdir log-dir metrics history report-to tensorboard",
    "--overwrite": "force f overwrite-output overwrite-output-dir replace clobber y yes",
    "--seed": "random-seed manual-seed rng-seed random-state",
    "--backend": "device gpu cuda use-gpu use-cuda no-cuda cpu accelerator gpuid gpu-id",
    "--threads": "num-threads n-threads nthreads workers num-workers jobs n-jobs j cores cpus num-cores",
    "--precision": "dtype fp16 bf16 half amp mixed-precision float16 tf32",
    "--length": "n num num-chars num-words num-symbols num-tokens words characters max-length max-new-tokens max-tokens n-words gen-length sample-len",
    "--temperature": "temp t diversity sampling-temperature",
    "--top-k": "topk k", "--top-p": "topp p nucleus nucleus-p",
    "--samples": "num-samples n-samples num-return-sequences count n-best",
    "--prompt": "prime primer prime-text prefix seed-text start-text start-string text input context starting-text",
    "--json": "output-json as-json format", "--per-token": "tokens words verbose debug token-scores", "--normalize": "normalise mean average",
    "--validation-split": "val-split valid-split val-frac validation-fraction val-size hold-out",
    "--encoding": "charset codec enc", "--line-ends": "newline newlines line-endings eol crlf",
    "--extend-vocabulary": "resize-embeddings resize-token-embeddings update-vocab grow-vocabulary new-symbols",
    "--counts": "oov-counts columns", "--penalty": "unk-penalty oov-penalty unk-score",
    "--bos": "add-bos start-of-sentence",
    "--unknown": "unk oov unknown-words handle-unknown",
}  # fmt: skip
VALUES = {  # our value → its names elsewhere
    "tanh": "rnn rnn_tanh simple simple_rnn simplernn vanilla elman", "relu": "rnn_relu irnn", "lstm": "long_short_term_memory lstmcell cudnnlstm",
    "gru": "grucell cudnngru gated", "sgd": "momentum nesterov gd", "adam": "amsgrad nadam adamax radam", "adamw": "adam_w",
    "rmsprop": "rms rms_prop", "adagrad": "ada_grad adadelta",
    "char": "chars character characters unicode letter letters", "word": "words token tokens whitespace", "byte": "bytes utf8 utf-8 bpe",
    "glorot": "xavier glorot_uniform xavier_uniform orthogonal", "uniform": "random rand random_uniform",
    "constant": "none fixed off const", "linear": "lin linear_decay", "cosine": "cos cosine_annealing cosineannealinglr cosine_decay",
    "plateau": "reduce_on_plateau reducelronplateau reduce_lr_on_plateau", "zaremba": "step steplr exponential exponentiallr",
    "mean": "average avg", "sum_time": "sum", "cuda": "gpu nvidia cuda:0", "cpu": "numba host", "reference": "numpy np",
    "float32": "fp32 float single f32 32", "bf16": "bfloat16 half fp16 float16 amp 16", "tf32": "tensorfloat32", "int8": "8 8bit q8 quantized",
    "train": "fit learn training", "eval": "evaluate test perplexity ppl validate measure", "score": "rank logprob predict",
    "generate": "sample write gen generation text", "info": "show about describe inspect summary version", "warmup": "compile precompile",
    "demo": "example tutorial quickstart", "skip": "ignore continue", "stop": "raise error", "unk": "<unk>",
}

LAYERS = {  # Keras layers that are not supported → what to do instead
    "Bidirectional": "recurrent layers read forwards only, as a model that generates text must",
    "TimeDistributed": "leave it out: Dense is applied to each step of a sequence",
    "Masking": "every step counts; pass sequences of equal length",
    **dict.fromkeys(("Input", "InputLayer"), "leave it out; a first layer other than Embedding accepts input_shape"),
    "SpatialDropout1D": "use Dropout",
    **dict.fromkeys(("RNN", "SimpleRNNCell", "LSTMCell", "GRUCell", "StackedRNNCells"), "use SimpleRNN, LSTM, GRU, or Recurrent(units, cell=...)"),
}


def flag_meant(given: str, known: Iterable[str]) -> str:
    """The known flag that was probably meant; empty if none is similar.

    Examples
    --------
    >>> flag_meant("--lr", ["--learning-rate", "--layers"]), flag_meant("--Hiden", ["--hidden"]), flag_meant("--xyz", ["--hidden"])
    ('--learning-rate', '--hidden', '')
    """
    flags, name = list(known), _plain(given.split("=")[0].lstrip("-"))
    for flag in flags:
        if name == _plain(flag.lstrip("-")):
            return flag
    for flag in flags:
        if name in FLAGS.get(flag, "").split():
            return flag
    beginning = [flag for flag in flags if len(name) > 2 and flag.lstrip("-").startswith(name)]
    close = get_close_matches(f"--{name}", flags, n=1, cutoff=0.75) if len(name) > 3 else []
    return beginning[0] if len(beginning) == 1 else "".join(close)


def argument_meant(given: str, known: Iterable[str]) -> str:
    """:func:`flag_meant` for arguments in Python.

    Examples
    --------
    >>> argument_meant("lr", ["epochs", "learning_rate"]), argument_meant("xyz", ["epochs"])
    ('learning_rate', '')
    """
    flags = {"--" + name.replace("_", "-"): name for name in known}
    return flags.get(flag_meant(f"--{given}", flags), "")


def value_meant(given: str, known: Iterable[str]) -> str:
    """The known value that was probably meant; empty if none is similar.

    Examples
    --------
    >>> value_meant("SimpleRNN", ["lstm", "tanh"]), value_meant("trian", ["train", "eval"]), value_meant("xyz", ["train"])
    ('tanh', 'train', '')
    """
    values, name = list(known), given.strip().lower()
    for value in values:
        if name == value or name.replace("-", "_") in VALUES.get(value, "").split():
            return value
    return "".join(get_close_matches(name, values, n=1, cutoff=0.6))


def _plain(name: str) -> str:
    """Convert a name such as hiddenSize or hidden_size to the style of flags: lower case, with hyphens between words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).replace("_", "-").lower()
