"""Flags of other libraries, given to the command line of each experiment."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from r1jax import cli
from r1jax.errors import UserError

COMMANDS = ("r1_zero", "r1", "distill", "plan", "benchmark", "scaling")
# Flags as a user of TRL, verl, OpenRLHF, Tunix or NeMo-RL would type them.
TYPED = """--lr --learning_rate --kl --kl_coef --beta --dataset --dataset_name --data.train_files --resume
    --resume_from_checkpoint --wandb --report_to --bf16 --fp16 --num_generations --n_samples_per_prompt --rollout.n
    --max_completion_length --max_new_tokens --generate_max_len --temperature --top_p --batch_size --train_batch_size
    --per_device_train_batch_size --gradient_accumulation_steps --micro_train_batch_size --epochs --num_train_epochs
    --max_steps --num_iterations --model --model_name_or_path --pretrain --actor_rollout_ref.model.path --output_dir
    --save_path --seed --gpus --n_gpus_per_node --tensor_parallel_size --lora --lora_rank --use_peft --vllm --use_vllm
    --gradient_checkpointing --flash_attn --attn_implementation --save_steps --eval_steps --logging_steps --warmup_ratio
    --lr_scheduler_type --weight_decay --max_grad_norm --eps_clip --epsilon --epsilon_high --clip_ratio --reward_funcs
    --reward_model --remote_rm_url --ref_model --loss_type --scale_rewards --advantage_estimator --adam_beta1 --config
    --tokenizer --chat_template --system_prompt --input_key --critic_learning_rate --gamma --push_to_hub
    --lam --gae_lambda --vf_coef --cliprange_value --critic.optim.lr --critic_model --mask_truncated_completions
    --algorithm.filter_groups.max_num_gen_batches --algorithm.use_kl_in_reward"""


def presets_of(command: str) -> tuple[dict[str, tuple[str, Any]], str]:
    module = importlib.import_module(f"experiments.{command}")
    presets = module.PRESETS if hasattr(module, "PRESETS") else {"peers": ("", module.Config())}
    return presets, next(iter(presets))


def said(command: str, *args: str) -> str:
    """The error line of the command for a wrong command line."""
    with pytest.raises(UserError) as caught:
        cli.parse(*presets_of(command), args)
    return str(caught.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_of_other_libraries_lead_to_flags_of_the_command(command: str) -> None:
    presets, default = presets_of(command)
    flags = {*cli._flags(presets[default][1]), "--preset"}
    trains = command in ("r1_zero", "r1", "distill")
    # Without --seed and --beta, which commands have.
    unknown = [typed for typed in TYPED.split() if "--" + typed[2:].replace("_", "-") not in flags]
    known = cli._flags(presets[default][1]) | {"--preset": str}
    lines = {typed: cli._unknown(f"{typed}=3", known) + " (see --help)" for typed in unknown}
    assert said(command, *(f"{typed}=3" for typed in unknown)) == lines[unknown[0]]  # parsing takes 0.1 s
    for typed, line in lines.items():
        own = "--" + typed[2:].replace("_", "-")
        assert line.startswith(f"{own}: no such flag; ") or not trains, line
        rest = line.removesuffix("(see --help)").removeprefix(own)
        assert "\n" not in line and set(re.findall(r"--[a-z0-9.-]*[a-z0-9]", rest)) <= flags, line


@pytest.mark.parametrize(
    ("command", "typed", "words"),
    [
        ("r1_zero", "--lr", ["the learning rate is --rl.learning-rate ("]),
        ("r1_zero", "--kl=0.1", ["--rl.beta"]),
        ("r1_zero", "--dataset=gsm8k", ["--problems.source"]),
        ("r1_zero", "--resume", ["the same command resumes", "--out"]),
        ("r1_zero", "--wandb", ["TensorBoard", "--out", "--track"]),
        ("chat", "--max_new_tokens=9", ["--max-tokens"]),
        ("r1_zero", "--bf16", ["--dtype", "bfloat16"]),
        ("r1_zero", "--batch_size=8", ["--rl.prompts", "--rl.group"]),
        ("r1_zero", "--num_generations=8", ["--rl.group"]),
        ("r1_zero", "--beta=0", ["--rl.beta"]),
        ("r1_zero", "--gradient_clip=1", ["--rl.max-grad-norm"]),
        ("r1_zero", "--logdir=x", ["--out"]),
        ("r1_zero", "--ngpu=8", ["--mesh"]),
        ("r1_zero", "--max_completion_length=64", ["--sampling.max-tokens"]),
        ("r1_zero", "--temperature=1", ["--sampling.temperature"]),
        ("r1_zero", "--epochs=1", ["--rl.steps"]),
        ("r1_zero", "--model_name_or_path=x", ["--base"]),
        ("r1_zero", "--output_dir=x", ["--out"]),
        ("r1_zero", "--gpus=8", ["--mesh"]),
        ("r1_zero", "--lora", ["no adapters"]),
        ("r1_zero", "--vllm", ["training process draws", "--sampling.slots"]),
        ("r1_zero", "--lam=1", ["only PPO has a critic", "--rl.algorithm"]),
        ("r1", "--critic_lr=1", ["only PPO has a critic", "--final-rl.algorithm"]),
        ("r1_zero", "--mask_truncated_completions", ["--rl.mask-truncated"]),
        ("r1_zero", "--algorithm.reward_dpo_coef=5", ["it is a setting of PRIME: add --rl.algorithm=prime"]),
        ("r1_zero", "--rl.prm-beta=0.1", ["it is a setting of PRIME: add --rl.algorithm=prime"]),
        ("r1", "--lr", ["--zero.learning-rate", "--sft.learning-rate", "--final-rl.learning-rate"]),
        ("r1", "--sft.lr", ["the learning rate is --sft.learning-rate ("]),
        ("r1", "--epochs=1", ["--sft.epochs", "--zero.steps"]),
        ("distill", "--model=x", ["--student"]),
        ("distill", "--seed=3", ["--teacher"]),
        ("distill", "--output_dir=x", ["--name", "--teacher"]),
        ("plan", "--gpus=8", ["--mesh"]),
        ("scaling", "--gpus=8", ["--meshes"]),
        ("benchmark", "--wandb", ["no such setting"]),
        ("r1_zero", "trainer.total_epochs=3", ["write --flag=value", "--rl.steps"]),  # as verl's command line
        ("r1_zero", "-lr=3", ["write --flag=value", "--rl.learning-rate"]),
    ],
)
def test_the_error_line_names_the_replacement(command: str, typed: str, words: list[str]) -> None:
    line = said(command, typed)
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--gae_lambda=1", ["lambda of the advantages is --rl.gae-lambda ("]),
        ("--rl.lam=1", ["--rl.gae-lambda"]),
        ("--gamma=1", ["--rl.gamma"]),
        ("--vf_coef=0.1", ["share no weights", "--rl.critic-learning-rate"]),
        ("--cliprange_value=0.2", ["--rl.value-clip"]),
        ("--critic_lr=1e-5", ["--rl.critic-learning-rate"]),
        ("--critic_model=x", ["--rl.critic"]),
        ("--use_kl_in_reward", ["--rl.kl-in", "--rl.beta"]),
        ("--whiten_advantages", ["--rl.whiten"]),
        ("--rl.baseline=batch", ["no such flag"]),
    ],
)
def test_flags_of_a_critic_lead_to_those_of_ppo(typed: str, words: list[str]) -> None:
    line = said("r1_zero", "--rl.algorithm=ppo", typed)
    assert [word for word in words if word not in line] == [], line


def test_a_flag_of_several_parts_is_asked_back_with_all_of_them() -> None:
    line = said("r1", "--learning-rate=1")
    for part in ("zero", "cold-start-sft", "reasoning-rl", "sft", "reward-model", "final-rl"):
        assert f"--{part}.learning-rate" in line
    assert "pretrain" not in line
