"""Names that flags have in other libraries, and what a command of this project has in their place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# Names, without dashes, then sentences, of which the first is said whose {fields} are all flags of the command. A field
# is the end of a flag's name ({learning-rate}: --rl.learning-rate); {a|b} are several; {?a} must be there, unsaid.
_TABLE: tuple[tuple[str, ...], ...] = (
    # Optimiser
    ("lr peak-lr max-lr actor-lr actor-learning-rate base-lr step-size", "the learning rate is {learning-rate}"),
    (
        "lr-scheduler lr-scheduler-type lr-schedule scheduler lr-decay-style lr-warmup-style min-lr min-lr-rate",
        "the schedule of the learning rate is {schedule}; cosine falls to a tenth",
    ),
    (
        "num-warmup-steps lr-warmup-steps warmup-ratio lr-warmup-ratio lr-warmup-steps-ratio warmup-fraction",
        "the warm-up, in updates, is {warmup-steps}",
    ),
    ("wd l2", "the weight decay is {weight-decay}"),
    (
        "grad-clip clip-grad gradient-clip gradient-clipping gradient-clip-val gradient-clip-norm max-norm clip-norm "
        "grad-norm-clip",
        "the gradient is clipped to {max-grad-norm}",
    ),
    ("beta1 adam-beta1 adam-beta-1", "the decay of the first moment is {b1}"),
    ("beta2 adam-beta2 adam-beta-2", "the decay of the second moment is {b2}"),
    ("betas adam-betas", "the decays of the moments are {b1} and {b2}"),
    ("adam-epsilon adam-eps", "AdamW's epsilon is {eps}"),
    ("optimizer optimiser optim", "the optimiser is always AdamW; its learning rate is {learning-rate}"),
    # Objective
    (
        "kl kl-coef kl-coeff kl-penalty init-kl-coef kl-loss-coef use-kl-loss use-kl-in-reward kl-beta kl-weight "
        "kl-ctrl beta",
        "the weight of the KL to the reference is {beta}",
    ),
    (
        "clip clip-eps clip-epsilon eps-clip cliprange clip-range clip-ratio clip-ratio-c epsilon delta",
        "the ratio is clipped below by {eps-low} and above by {eps-high}",
    ),
    ("epsilon-low clip-ratio-low eps-clip-low clip-low", "the ratio is clipped below by {eps-low}"),
    ("epsilon-high clip-ratio-high eps-clip-high clip-high", "the ratio is clipped above by {eps-high}"),
    ("entropy-coef entropy-coeff ent-coef entropy-bonus entropy-loss-coef", "the weight of the entropy is {entropy}"),
    (
        "algorithm algo adv-estimator advantage-estimator loss-type loss-fn policy-loss trainer",
        "the algorithm is {algorithm}",
    ),
    ("loss-agg-mode loss-aggregation", "the mean of the loss is {aggregate}"),
    ("importance-sampling-level", "the ratio of each token or of the whole sequence is {ratio}"),
    (
        "scale-rewards norm-adv-by-std-in-grpo normalize-advantages normalize-std whiten-advantages std-normalization",
        "advantages are divided by the deviation unless {normalise-std} is false",
    ),
    (
        "filter-groups dynamic-sampling dynamic-filtering dapo",
        "groups of equal rewards are dropped by {drop-equal-groups}",
    ),
    (
        "overlong-buffer-len mask-truncated-completions overlong-filtering",
        "the penalty on long completions is {overlong-buffer}",
    ),
    (
        "tis tis-cap use-tis vllm-importance-sampling-correction vllm-importance-sampling-cap imp-ratio-cap",
        "the cap of truncated importance sampling is {importance-cap}",
    ),
    (
        "ref-model reference-model ref-model-path ref ref-policy sync-ref-model ref-model-sync-steps update-reference",
        "the reference is the model as it starts, where {beta} is above 0, and later the policy by {reference-every}",
    ),
    (
        "critic critic-model critic-lr critic-learning-rate value-model gamma lam lambda gae-lambda vf-coef "
        "cliprange-value",
        "there is no critic: a sample is compared with its group, as {baseline} says",
    ),
    # How much
    (
        "num-generations rollout-n n group-size g samples-per-prompt n-samples-per-prompt num-samples-per-prompt "
        "rollouts-per-prompt num-rollouts num-return-sequences generations-per-prompt",
        "samples of each question are {group}",
        "samples of each question are {group|samples}",
    ),
    (
        "batch-size bs train-batch-size global-batch-size rollout-batch-size per-device-train-batch-size batch gbs "
        "num-prompts prompts-per-step groups-per-batch",
        "questions of a rollout are {prompts}, and conversations of an update {batch}",
        "questions of a rollout are {prompts}, each with {group} samples",
    ),
    (
        "micro-batch-size mbs micro-train-batch-size ppo-micro-batch-size ppo-micro-batch-size-per-gpu "
        "train-micro-batch gradient-accumulation-steps grad-accum grad-accum-steps accumulation-steps "
        "accumulate-grad-batches",
        "sequences of one backward pass, over all devices, are {microbatch}; gradients add up over the rest",
    ),
    (
        "mini-batch-size minibatch-size ppo-mini-batch-size num-mini-batches num-ppo-batches",
        "a rollout is split into {minibatches} updates",
    ),
    ("ppo-epochs num-iterations mu update-epochs num-ppo-epochs", "passes over a rollout are {inner-epochs}"),
    (
        "epochs num-epochs num-train-epochs total-epochs max-epochs n-epochs",
        "the length of training is {epochs} and, in rollouts, {steps}",
        "the length of training, in rollouts, is {steps}",
    ),
    (
        "max-steps num-steps total-steps train-steps training-steps total-training-steps max-train-steps "
        "num-train-steps num-batches iterations iters num-episodes total-episodes steps",
        "the length of training, in rollouts, is {steps}",
    ),
    # Sampling
    (
        "max-completion-length max-new-tokens max-response-length response-length generate-max-len max-gen-len "
        "max-length max-generation-length max-tokens-to-generate total-generation-steps max-tokens max-len",
        "new tokens of a completion are at most {sampling.max-tokens}",
        "new tokens of a sample are {tokens}",
        "lengths are those of the run that {teacher} names",
    ),
    (
        "max-prompt-length prompt-max-len max-prompt-len prompt-length prompt-len",
        "prompts are taken whole, and completions end at {sampling.max-tokens}",
        "tokens of a prompt are {prompt}",
    ),
    (
        "max-seq-len max-seq-length seq-len seq-length model-max-length cutoff-len max-model-len "
        "max-context-length context-length block-size packing pack",
        "conversations are packed into rows of {width} tokens",
        "prompts are taken whole, and completions end at {sampling.max-tokens}",
        "a sequence is {prompt} and {tokens}",
    ),
    (
        "temp temperature rollout-temperature",
        "the temperature is {sampling.temperature}, and in evaluation {evaluation.temperature}",
        "the temperature is that of the run that {teacher} names",
    ),
    ("top-p top-k min-p", "sampling is as in the run that {teacher} names"),
    (
        "vllm use-vllm vllm-mode vllm-server-host sglang use-sglang rollout-engine rollout-backend "
        "inference-engine gpu-memory-utilization vllm-gpu-memory-utilization vllm-num-engines async-engine "
        "colocate",
        "samples are drawn by the training process itself; {sampling.slots} bounds its memory",
        "samples are drawn by the process itself; {slots} bounds its memory",
        "samples are drawn by the training process itself{?learning-rate}",
    ),
    # Model and how it is computed
    (
        "model model-name model-name-or-path model-path base-model actor-model hf-model hf-checkpoint model-id "
        "model-dir checkpoint ckpt init-from pretrained pretrain policy path actor-path load",
        "the model to start from is {base}",
        "the model to teach is {student}",
        "the shapes of the model are {model}",
    ),
    ("teacher-model teacher-model-name-or-path", "the teacher is {teacher}"),
    (
        "tokenizer tokenizer-name tokenizer-path tokenizer-name-or-path",
        "the tokenizer is that of the model, {base}",
        "the tokenizer is that of the model, {student}",
    ),
    (
        "bf16 fp16 fp32 bfloat16 float16 precision mixed-precision torch-dtype half amp",
        "the type of computation is {dtype} (float32 or bfloat16) and of stored weights {param-dtype}",
        "the type is {dtype} (float32 or bfloat16)",
        "the type of stored weights is {param-dtype} (float32 or bfloat16)",
    ),
    (
        "gpus num-gpus n-gpus ngpus n-gpus-per-node num-gpus-per-node actor-num-gpus-per-node gpus-per-node "
        "num-processes nproc-per-node devices num-devices world-size nnodes num-nodes nodes ngpu local-rank "
        "tensor-parallel-size tp tp-size data-parallel-size dp dp-size fsdp fsdp-size deepspeed ds-config "
        "zero-stage zero3 sharding strategy",
        "devices are {mesh}, DATAxMODEL, with weights and moments split over both",
        "devices are {meshes}, DATAxMODEL each",
    ),
    ("device cuda cpu gpu tpu platform backend", "devices are those that JAX finds; JAX_PLATFORMS=cpu chooses the CPU"),
    (
        "gradient-checkpointing activation-checkpointing grad-checkpointing recompute remat-policy "
        "enable-gradient-checkpointing",
        "what the backward pass computes again is {remat}",
    ),
    (
        "flash-attn flash-attention use-flash-attn attn attn-implementation attention-implementation",
        "the kernel of attention is {attention}",
    ),
    (
        "compile torch-compile jit use-torch-compile",
        "all is compiled; {unroll} compiles the blocks one by one",
        "all is compiled",
    ),
    (
        "lora use-lora use-peft peft lora-r lora-rank lora-alpha lora-dropout lora-target-modules qlora "
        "load-in-4bit load-in-8bit quantization",
        "there are no adapters and no quantised training: all weights are trained{?param-dtype}",
    ),
    # Data and rewards
    (
        "dataset dataset-name dataset-path dataset-name-or-path data data-path data-dir train-file train-files "
        "train-data train-dataset prompt-data input env environment task",
        "the problems are {problems.source}: a JSONL or parquet file with prompt and answer, arithmetic, or gym:NAME",
        "the data are those of the run that {teacher} names",
    ),
    (
        "eval-dataset eval-data eval-file test-file test-data val-file val-files validation-file valid-file "
        "test-dataset",
        "held-out problems are {problems.held-out-source}",
    ),
    ("dataset-config dataset-split split dataset-train-split", "a split is a file of its own, {problems.source}"),
    (
        "input-key prompt-key answer-key label-key prompt-column answer-column dataset-text-field dataset-prompt-field",
        "the columns of {problems.source} are named prompt and answer",
    ),
    ("max-samples max-train-samples num-train-samples dataset-size", "problems to train on are {problems.train-size}"),
    (
        "chat-template prompt-template apply-chat-template system-prompt sys-prompt",
        "how a problem is asked is {template}",
    ),
    (
        "reward reward-fn reward-func reward-funcs reward-function custom-reward-function reward-model "
        "reward-model-path reward-model-name-or-path rm reward-pretrain remote-rm-url reward-weights verifier",
        "rewards, with functions of your own and weights, are {rewards}",
        "models of what is preferred are {helpfulness} and {harmlessness}",
        "rewards are those of the run that {teacher} names",
    ),
    (
        "num-workers workers dataloader-num-workers num-proc reward-workers num-cpu num-cpus",
        "processes that compute rewards are {verifier.workers}",
    ),
    ("timeout reward-timeout verifier-timeout", "the deadline of a completion's rewards is {verifier.deadline}"),
    # Output
    (
        "output-dir output out-dir save-path save-dir checkpoint-dir ckpt-dir ckpt-path default-local-dir log-dir "
        "logdir logging-dir run-dir exp-dir workdir work-dir results-dir run-name exp-name experiment-name experiment "
        "project project-name name",
        "the folder of the run is {out}",
        "the folder of the run is {name}, in that of {teacher}",
    ),
    (
        "resume resume-from resume-from-checkpoint resume-mode resume-path auto-resume load-checkpoint load-ckpt "
        "restore continue continue-from",
        "the same command goes on from its newest checkpoint in {out}, of which {save.every} says how often one is "
        "made",
        "the same command goes on where it was; {force} begins anew",
    ),
    (
        "overwrite overwrite-output-dir overwrite-out clobber",
        "stages are made again with {force}",
        "a folder is never overwritten: name another {out}, or remove it",
    ),
    (
        "wandb use-wandb wandb-project wandb-run-name wandb-mode report-to tensorboard use-tensorboard "
        "tensorboard-dir log-with logger loggers tracker mlflow swanlab trackio comet neptune clearml",
        "metrics.jsonl and TensorBoard events are written to the folder that {out} names{?learning-rate}",
        "metrics.jsonl and TensorBoard events are written to the folder that {name} names{?learning-rate}",
    ),
    (
        "logging-steps log-every log-interval log-freq log-steps logging-strategy log-completions log-samples",
        "every step is written to metrics.jsonl, and some completions to completions.jsonl{?learning-rate}",
    ),
    (
        "save-steps save-every save-freq save-interval save-strategy checkpoint-every checkpoint-interval "
        "ckpt-interval",
        "steps between checkpoints are {save.every}",
    ),
    (
        "save-total-limit max-ckpt-num max-ckpt-to-keep max-to-keep keep-checkpoints max-actor-ckpt-to-keep",
        "checkpoints that are kept are {save.keep-last}",
    ),
    (
        "eval-steps eval-every eval-interval eval-freq test-freq eval-strategy evaluation-strategy do-eval "
        "val-before-train",
        "held-out problems are evaluated before and after training; {evaluation.problems} are how many",
    ),
    (
        "max-eval-samples num-eval-samples eval-size num-eval eval-problems",
        "held-out problems that are evaluated are {evaluation.problems}",
    ),
    ("eval-samples val-n n-eval num-eval-generations", "samples of each held-out problem are {evaluation.samples}"),
    (
        "push-to-hub hub-model-id hub-token hf-token trust-remote-code",
        "nothing is sent to a hub and no remote code is run; the exported model is in {out}{?learning-rate}",
    ),
    (
        "config config-file config-name config-path yaml",
        "settings are flags alone, from {preset} on; config.json in the folder that {out} names keeps "
        "them{?learning-rate}",
        "settings are flags alone, from {preset} on",
    ),
    (
        "random-seed rng-seed data-seed seed manual-seed",
        "the seed is {seed}",
        "the seed is that of the run that {teacher} names",
    ),
    ("dryrun dry test-run debug sanity-check", "without training: {preview}", "without training: {dry-run}"),
)

_SENTENCES = {name: sentences for names, *sentences in _TABLE for name in names.split()}
_FIELD = re.compile(r"\{(\??)([^}]+)\}")


def explain(word: str, flags: Collection[str]) -> str | None:
    """What a command with ``flags`` has in place of a flag that it lacks, in words; None for an unknown name.

    The word may be dotted, as in rl.lr: its last part is looked up, and flags with the same beginning are preferred.
    """
    prefix, _, name = word.lstrip("-").partition("=")[0].replace("_", "-").lower().rpartition(".")
    for sentence in _SENTENCES.get(name, ()):
        fields = {match[2]: find(match[2].split("|"), flags, prefix) for match in _FIELD.finditer(sentence)}
        if all(fields.values()):
            return _FIELD.sub(lambda match: "" if match[1] else any_of(fields[match[2]]), sentence)  # noqa: B023
    if same_name := find([name], flags, prefix):
        return f"did you mean {any_of(same_name)}?"
    return "this command has nothing of the kind" if name in _SENTENCES else None


def find(fields: Iterable[str], flags: Collection[str], prefix: str = "") -> list[str]:
    """The flags whose names end in one of ``fields``: one of that very name, else those below ``prefix``, else all.

    Flags of the small model that is made where none is given are meant by none but their own prefix.
    """
    found = []
    for field in fields:
        if f"--{field}" in flags:
            found.append(f"--{field}")
            continue
        ending = [flag for flag in flags if flag.endswith(f".{field}")]
        own = [flag for flag in ending if prefix and flag.startswith(f"--{prefix}.")]
        found += own or [flag for flag in ending if not flag.startswith("--pretrain.")]
    return found


def any_of(flags: list[str]) -> str:
    """The flags as a list in words: "--a, --b or --c"."""
    return " or ".join([", ".join(flags[:-1]), flags[-1]] if len(flags) > 1 else flags)
