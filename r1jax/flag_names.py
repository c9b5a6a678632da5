"""Explains flags of other libraries in terms of the flags of a command."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_NO_CRITIC = "only PPO has a critic, and ppo is one of the values of {algorithm}"
_OF_PRIME = "it is a setting of PRIME: add {algorithm}=prime"

# Names without dashes, followed by sentences. The first sentence whose {fields} are all flags of the command is used. A
# field is the end of a flag ({learning-rate}: --rl.learning-rate); {a|b} inserts both; {?a} is required, not inserted.
_TABLE: tuple[tuple[str, ...], ...] = (
    # Optimiser
    ("lr peak-lr max-lr actor-lr actor-learning-rate base-lr step-size", "the learning rate is {learning-rate}"),
    (
        "lr-scheduler lr-scheduler-type lr-schedule scheduler lr-decay-style lr-warmup-style min-lr min-lr-rate",
        "the schedule of the learning rate is {schedule}; cosine decays to a tenth",
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
        "kl kl-coef kl-coeff kl-penalty init-kl-coef kl-loss-coef kl-beta kl-weight kl-ctrl beta",
        "the weight of the KL divergence from the reference is {beta}",
    ),
    (
        "use-kl-loss use-kl-in-reward kl-in-reward kl-type",
        "{kl-in} is reward or loss, and the weight of the KL divergence from the reference is {beta}",
        "the weight of the KL divergence from the reference is {beta}, a term of the loss",
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
    ("loss-agg-mode loss-aggregation", "the aggregation of the loss is {aggregate}"),
    ("importance-sampling-level", "the choice between token and sequence ratios is {ratio}"),
    (
        "scale-rewards norm-adv-by-std-in-grpo normalize-advantages normalize-std whiten-advantages std-normalization",
        "advantages are divided by the standard deviation unless {normalise-std} is false",
        "advantages are whitened unless {whiten} is false",
    ),
    ("filter-groups dynamic-sampling dynamic-filtering dapo", "{drop-equal-groups} drops groups with equal rewards"),
    ("max-num-gen-batches", "the number of attempts at sampling after the first is {max-resamples}"),
    ("overlong-buffer-len", "the penalty on long completions is {overlong-buffer}"),
    ("mask-truncated-completions overlong-filtering", "{mask-truncated} leaves truncated samples out of the loss"),
    # PRIME
    ("reward-dpo-coef dpo-coef rm-coef", "the weight of the process rewards is {process-weight}", _OF_PRIME),
    ("beta-train", "the factor of the process rewards is {prm-beta}", _OF_PRIME),
    ("prm-lr", "the learning rate of the process reward model is {prm-learning-rate}", _OF_PRIME),
    ("prime-norm", "{normalise-process} divides process rewards by their largest sum", _OF_PRIME),
    (
        "filter-accuracy accuracy-lower-bound accuracy-upper-bound",
        "prompts with an accuracy outside {accuracy-low} and {accuracy-high} are filtered, with {drop-equal-groups}",
        _OF_PRIME,
    ),
    ("oversample-factor", "the number of further attempts at sampling is {max-resamples}"),
    ("prm-beta prm-learning-rate process-weight normalise-process accuracy-low accuracy-high", _OF_PRIME),
    (
        "tis tis-cap use-tis vllm-importance-sampling-correction vllm-importance-sampling-cap imp-ratio-cap",
        "the cap of truncated importance sampling is {importance-cap}",
    ),
    (
        "ref-model reference-model ref-model-path ref ref-policy sync-ref-model ref-model-sync-steps update-reference",
        "the reference is the initial model if {beta} is above 0; {reference-every} replaces it by the policy",
    ),
    ("critic critic-model critic-pretrain value-model", "the critic starts from {critic}", _NO_CRITIC),
    ("critic-lr critic-learning-rate value-lr vf-lr", "{critic-learning-rate} is that of the critic", _NO_CRITIC),
    ("gamma discount discount-factor", "the discount of rewards is {gamma}", _NO_CRITIC),
    ("lam lambda gae-lam gae-lambda", "lambda of the advantages is {gae-lambda}", _NO_CRITIC),
    (
        "vf-coef value-coef value-loss-coef vf-loss-coef",
        "policy and critic share no weights, so {critic-learning-rate} replaces the coefficient",
        _NO_CRITIC,
    ),
    (
        "cliprange-value value-clip value-clip-range clip-range-vf vf-clip vf-clip-param",
        "a value moves by at most {value-clip} per rollout",
        _NO_CRITIC,
    ),
    # Batch and length of training
    (
        "num-generations rollout-n n group-size g samples-per-prompt n-samples-per-prompt num-samples-per-prompt "
        "rollouts-per-prompt num-rollouts num-return-sequences generations-per-prompt",
        "the number of samples per question is {group}",
        "the number of samples per question is {group|samples}",
    ),
    (
        "batch-size bs train-batch-size global-batch-size rollout-batch-size per-device-train-batch-size batch gbs "
        "num-prompts prompts-per-step groups-per-batch",
        "the number of questions per rollout is {prompts}, and of conversations per update {batch}",
        "the number of questions per rollout is {prompts}, each with {group} samples",
    ),
    (
        "micro-batch-size mbs micro-train-batch-size ppo-micro-batch-size ppo-micro-batch-size-per-gpu "
        "train-micro-batch gradient-accumulation-steps grad-accum grad-accum-steps accumulation-steps "
        "accumulate-grad-batches",
        "the number of sequences per backward pass, over all devices, is {microbatch}; gradients are accumulated",
    ),
    (
        "mini-batch-size minibatch-size ppo-mini-batch-size num-mini-batches num-ppo-batches",
        "the number of updates per pass over a rollout is {minibatches}",
    ),
    ("ppo-epochs num-iterations mu update-epochs num-ppo-epochs", "{inner-epochs} sets the passes over a rollout"),
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
        "the maximum length of a completion, in tokens, is {sampling.max-tokens}",
        "the number of new tokens per sample is {tokens}",
        "the maximum length of a reply, in tokens, is {max-tokens}",
        "lengths are those of the {teacher} run",
    ),
    (
        "max-prompt-length prompt-max-len max-prompt-len prompt-length prompt-len",
        "prompts are not truncated, and completions end at {sampling.max-tokens}",
        "the number of tokens per prompt is {prompt}",
    ),
    (
        "max-seq-len max-seq-length seq-len seq-length model-max-length cutoff-len max-model-len "
        "max-context-length context-length block-size packing pack",
        "conversations are packed into rows of {width} tokens",
        "prompts are not truncated, and completions end at {sampling.max-tokens}",
        "the length of a sequence is the sum of {prompt} and {tokens}",
    ),
    (
        "temp temperature rollout-temperature",
        "the temperature is {sampling.temperature}, and in evaluation {evaluation.temperature}",
        "the temperature is that of the {teacher} run",
    ),
    ("top-p top-k min-p", "sampling is as in the {teacher} run"),
    (
        "vllm use-vllm vllm-mode vllm-server-host sglang use-sglang rollout-engine rollout-backend "
        "inference-engine gpu-memory-utilization vllm-gpu-memory-utilization vllm-num-engines async-engine "
        "colocate",
        "the training process draws the samples itself; {sampling.slots} limits its memory",
        "the process draws the samples itself; {slots} limits its memory",
        "the training process draws the samples itself{?learning-rate}",
    ),
    # Model and computation
    (
        "model model-name model-name-or-path model-path base-model actor-model hf-model hf-checkpoint model-id "
        "model-dir checkpoint ckpt init-from pretrained pretrain policy path actor-path load",
        "the model to start from is {base}",
        "the model to train is {student}",
        "the architecture of the model is {model}",
    ),
    ("teacher-model teacher-model-name-or-path", "the teacher is {teacher}"),
    (
        "tokenizer tokenizer-name tokenizer-path tokenizer-name-or-path",
        "the tokenizer is that of the model, {base}",
        "the tokenizer is that of the model, {student}",
    ),
    (
        "bf16 fp16 fp32 bfloat16 float16 precision mixed-precision torch-dtype half amp",
        "the type of computation is {dtype} (float32 or bfloat16), and that of the stored weights {param-dtype}",
        "the type is {dtype} (float32 or bfloat16)",
        "the type of stored weights is {param-dtype} (float32 or bfloat16)",
    ),
    (
        "gpus num-gpus n-gpus ngpus n-gpus-per-node num-gpus-per-node actor-num-gpus-per-node gpus-per-node "
        "num-processes nproc-per-node devices num-devices world-size nnodes num-nodes nodes ngpu local-rank "
        "tensor-parallel-size tp tp-size data-parallel-size dp dp-size fsdp fsdp-size deepspeed ds-config "
        "zero-stage zero3 sharding strategy expert-parallel-size expert-model-parallel-size ep ep-size",
        "the mesh of devices is {mesh}, DATAxMODEL or DATAxMODELxEXPERT; weights and moments are split over all axes",
        "the meshes of devices are {meshes}, DATAxMODEL or DATAxMODELxEXPERT each",
    ),
    ("device cuda cpu gpu tpu platform backend", "JAX selects the devices; JAX_PLATFORMS=cpu selects the CPU"),
    (
        "gradient-checkpointing activation-checkpointing grad-checkpointing recompute remat-policy "
        "enable-gradient-checkpointing",
        "what the backward pass recomputes is {remat}",
    ),
    (
        "flash-attn flash-attention use-flash-attn attn attn-implementation attention-implementation",
        "the attention kernel is {attention}",
    ),
    (
        "compile torch-compile jit use-torch-compile",
        "everything is compiled; {unroll} compiles each block separately",
        "everything is compiled",
    ),
    (
        "lora use-lora use-peft peft lora-r lora-rank lora-alpha lora-dropout lora-target-modules qlora "
        "load-in-4bit load-in-8bit quantization",
        "there are no adapters and there is no quantised training: all weights are trained{?param-dtype}",
    ),
    # Data and rewards
    (
        "dataset dataset-name dataset-path dataset-name-or-path data data-path data-dir train-file train-files "
        "train-data train-dataset prompt-data input env environment task",
        "the problems are {problems.source}: a JSONL or parquet file with prompt and answer, arithmetic, or gym:NAME",
        "the data are those of the {teacher} run",
    ),
    (
        "eval-dataset eval-data eval-file test-file test-data val-file val-files validation-file valid-file "
        "test-dataset",
        "held-out problems are {problems.held-out-source}",
    ),
    ("dataset-config dataset-split split dataset-train-split", "each split is a separate file, {problems.source}"),
    (
        "input-key prompt-key answer-key label-key prompt-column answer-column dataset-text-field dataset-prompt-field",
        "the columns of {problems.source} must be named prompt and answer",
    ),
    (
        "max-samples max-train-samples num-train-samples dataset-size",
        "{problems.train-size} sets the number of problems",
    ),
    ("chat-template prompt-template apply-chat-template system-prompt sys-prompt", "the prompt template is {template}"),
    (
        "reward reward-fn reward-func reward-funcs reward-function custom-reward-function reward-model "
        "reward-model-path reward-model-name-or-path rm reward-pretrain remote-rm-url reward-weights verifier",
        "reward functions, also your own, and their weights are {rewards}",
        "preference models are {helpfulness} and {harmlessness}",
        "rewards are those of the {teacher} run",
    ),
    (
        "num-workers workers dataloader-num-workers num-proc reward-workers num-cpu num-cpus",
        "the number of reward processes is {verifier.workers}",
    ),
    ("timeout reward-timeout verifier-timeout", "the time limit per completion is {verifier.deadline}"),
    # Output
    (
        "output-dir output out-dir save-path save-dir checkpoint-dir ckpt-dir ckpt-path default-local-dir log-dir "
        "logdir logging-dir run-dir exp-dir workdir work-dir results-dir run-name exp-name experiment-name experiment "
        "project project-name name",
        "the folder of the run is {out}",
        "the folder of the run is {name}, inside that of {teacher}",
    ),
    (
        "resume resume-from resume-from-checkpoint resume-mode resume-path auto-resume load-checkpoint load-ckpt "
        "restore continue continue-from",
        "the same command resumes from its newest checkpoint in {out}; {save.every} is the number of steps between "
        "checkpoints",
        "the same command resumes; {force} starts again",
    ),
    (
        "overwrite overwrite-output-dir overwrite-out clobber",
        "{force} runs finished stages again",
        "a folder is never overwritten: choose another {out} or remove the folder",
    ),
    (
        "wandb use-wandb wandb-project wandb-run-name wandb-mode report-to tensorboard use-tensorboard "
        "tensorboard-dir log-with logger loggers tracker mlflow swanlab trackio comet neptune clearml",
        "metrics.jsonl and TensorBoard events are written to the folder {out}; {track} selects wandb, trackio or both"
        "{?learning-rate}",
        "metrics.jsonl and TensorBoard events are written to the folder {out}{?learning-rate}",
        "metrics.jsonl and TensorBoard events are written to the folder {name}{?learning-rate}",
    ),
    (
        "logging-steps log-every log-interval log-freq log-steps logging-strategy log-completions log-samples",
        "all steps are written to metrics.jsonl, and some completions to completions.jsonl{?learning-rate}",
    ),
    (
        "save-steps save-every save-freq save-interval save-strategy checkpoint-every checkpoint-interval "
        "ckpt-interval",
        "the number of steps between checkpoints is {save.every}",
    ),
    (
        "save-total-limit max-ckpt-num max-ckpt-to-keep max-to-keep keep-checkpoints max-actor-ckpt-to-keep",
        "the number of checkpoints that are kept is {save.keep-last}",
    ),
    (
        "eval-steps eval-every eval-interval eval-freq test-freq eval-strategy evaluation-strategy do-eval "
        "val-before-train",
        "held-out problems are evaluated before and after training; {evaluation.problems} is their number",
    ),
    (
        "max-eval-samples num-eval-samples eval-size num-eval eval-problems",
        "the number of held-out problems is {evaluation.problems}",
    ),
    ("eval-samples val-n n-eval num-eval-generations", "{evaluation.samples} sets the samples per problem"),
    (
        "push-to-hub hub-model-id hub-token hf-token trust-remote-code",
        "nothing is uploaded and no remote code is executed; the exported model is in {out}{?learning-rate}",
    ),
    (
        "config config-file config-name config-path yaml",
        "settings are set only by flags, starting from {preset}; config.json in the folder {out} stores "
        "them{?learning-rate}",
        "settings are set only by flags, starting from {preset}",
    ),
    (
        "random-seed rng-seed data-seed seed manual-seed",
        "the random seed is {seed}",
        "the random seed is that of the {teacher} run",
    ),
    ("dryrun dry test-run debug sanity-check", "{preview} stops before training", "{dry-run} stops before training"),
)

_SENTENCES = {name: sentences for names, *sentences in _TABLE for name in names.split()}
_FIELD = re.compile(r"\{(\??)([^}]+)\}")


def explain(word: str, flags: Collection[str]) -> str | None:
    """A sentence about the flags of a command that replace an unknown flag; None if the name is not in the table.

    The word may be dotted, as in rl.lr: the last part is looked up, and flags with the same prefix are preferred.
    """
    prefix, _, name = word.lstrip("-").partition("=")[0].replace("_", "-").lower().rpartition(".")
    for sentence in _SENTENCES.get(name, ()):
        fields = {match[2]: find(match[2].split("|"), flags, prefix) for match in _FIELD.finditer(sentence)}
        if all(fields.values()):
            return _FIELD.sub(lambda match: "" if match[1] else any_of(fields[match[2]]), sentence)  # noqa: B023
    if same_name := find([name], flags, prefix):
        return f"did you mean {any_of(same_name)}?"
    return "this command has no such setting" if name in _SENTENCES else None


def find(fields: Iterable[str], flags: Collection[str], prefix: str = "") -> list[str]:
    """The flags that end in one of ``fields``: the exact name, else those below ``prefix``, else all.

    Flags of pretraining match only with their own prefix.
    """
    matching = []
    for field in fields:
        if f"--{field}" in flags:
            matching.append(f"--{field}")
            continue
        ending = [flag for flag in flags if flag.endswith(f".{field}")]
        own = [flag for flag in ending if prefix and flag.startswith(f"--{prefix}.")]
        matching += own or [flag for flag in ending if not flag.startswith("--pretrain.")]
    return matching


def any_of(flags: list[str]) -> str:
    """The flags as text: "--a, --b or --c"."""
    return " or ".join([", ".join(flags[:-1]), flags[-1]] if len(flags) > 1 else flags)
