"""Each option of RLlib's builder: honoured, or refused by `RainbowConfig.validate()` with a reason.

`docs/rllib.md` holds the same as a table, and a test walks the builder's signatures of the installed Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from tensorrl.errors import InputError

_RUNNERS = "remote evaluation runners"
_ONE_LOOP = "one loop in one process plays and learns, an update an agent step"
_NO_CONNECTORS = "frames go from ALE to the network without connectors"
_OLD = "only RLlib's old API stack reads it"
_OFFLINE = "Rainbow learns from its own game, not from recorded data"
_ONE_AGENT = "an Atari game has one agent and one module"
_PROTOCOL = "Atari 100k fixes it"
_NO_COMPILE = "the update is compiled by hand, and recorded as a CUDA graph on a GPU"
_TORCH = "PyTorch only"

HONOURED: dict[str, dict[str, str]] = {
    "resources": {
        "num_cpus_for_main_process num_gpus_per_learner_worker num_cpus_per_learner_worker num_cpus_for_local_worker "
        "custom_resources_for_main_process placement_strategy local_gpu_idx": "resources of the trial",
        "num_cpus_per_worker num_gpus_per_worker custom_resources_per_worker": f"old names; resources of {_RUNNERS}",
    },
    "environment": {"env": "the game, as `tensorrl games` lists it"},
    "env_runners": {
        "env_runner_cls": "a subclass of `AtariEnvRunner`",
        "explore": "in `evaluation_config`: whether evaluation explores; training always does",
        "num_cpus_per_env_runner num_gpus_per_env_runner custom_resources_per_env_runner "
        "max_requests_in_flight_per_env_runner validate_env_runners_after_construction sample_timeout_s "
        "broadcast_env_runner_states": _RUNNERS,
        "validate_workers_after_construction ignore_worker_failures recreate_failed_workers "
        "worker_health_probe_timeout_s worker_restore_timeout_s": f"old names; {_RUNNERS}",
        "exploration_config": "empty only, as on RLlib's new API stack",
    },
    "learners": {
        "num_gpus_per_learner num_cpus_per_learner local_gpu_idx": "where the loop runs",
        "learner_class": "a subclass of `RainbowLearner`",
        "learner_config_dict": "handed to such a subclass",
    },
    "training": {
        "lr gamma n_step num_atoms v_min v_max noisy sigma0 hiddens adam_epsilon grad_clip "
        "train_batch_size_per_learner train_batch_size num_steps_sampled_before_learning_starts "
        "target_network_update_freq epsilon replay_buffer_config": "a setting, see below",
        "dueling double_q tau td_error_loss_fn store_buffer_in_checkpoints": "at the one value that Rainbow has",
        "optimizer": 'ours: `"adam"` or `"kfac"`',
        "learner_class learner_config_dict": "as in `learners()`",
        "max_requests_in_flight_per_sampler_worker": f"an old name; {_RUNNERS}",
    },
    "callbacks": {
        "callbacks_class on_algorithm_init on_train_result on_checkpoint_loaded on_evaluate_start on_evaluate_end "
        "on_env_runners_recreated": "called by RLlib's `Algorithm`",
        "on_environment_created on_episode_created on_episode_start on_episode_step on_episode_end on_sample_end": (
            "called in training and in evaluation"
        ),
    },
    "evaluation": {
        "evaluation_interval evaluation_duration evaluation_duration_unit evaluation_num_env_runners "
        "evaluation_num_workers evaluation_parallel_to_training evaluation_force_reset_envs_before_iteration "
        "evaluation_auto_duration_min_env_steps_per_sample evaluation_auto_duration_max_env_steps_per_sample "
        "evaluation_sample_timeout_s evaluation_unhealthy_workers_timeout_s evaluation_error_after_n_consecutive_skips "
        "custom_evaluation_function": "as RLlib documents",
        "evaluation_config": "as RLlib documents, but for another `env`",
    },
    "reporting": {
        "metrics_num_episodes_for_smoothing min_time_s_per_iteration min_train_timesteps_per_iteration "
        "min_sample_timesteps_per_iteration log_gradients custom_stats_cls_lookup": "as RLlib documents",
    },
    "debugging": {"seed": "of every source of randomness", "log_level log_sys_usage": "as RLlib documents"},
    "fault_tolerance": {
        "restart_failed_env_runners ignore_env_runner_failures max_num_env_runner_restarts "
        "delay_between_env_runner_restarts_s env_runner_health_probe_timeout_s env_runner_restore_timeout_s "
        "num_consecutive_env_runner_failures_tolerance": _RUNNERS,
        "ignore_worker_failures recreate_failed_workers recreate_failed_env_runners max_num_worker_restarts "
        "delay_between_worker_restarts_s num_consecutive_worker_failures_tolerance worker_health_probe_timeout_s "
        "worker_restore_timeout_s": f"old names; {_RUNNERS}",
    },
    "rl_module": {
        "rl_module_spec": "a subclass of `RainbowModule`, or any module with `QNetAPI` and `TargetNetworkAPI`",
        "model_config model_config_dict": "handed to a module of one's own",
    },
    "experimental": {"_use_msgpack_checkpoints": "as RLlib documents"},
    "multi_agent": {"count_steps_by": "with one agent both units are the same"},
    "framework": {"framework": '`"torch"`'},
    "api_stack": {"enable_rl_module_and_learner enable_env_runner_and_connector_v2": "`True`, the new API stack"},
}

REFUSED: dict[str, dict[str, str]] = {
    "python_environment": {"extra_python_environs_for_driver extra_python_environs_for_worker": _OLD},
    "resources": {"num_gpus _fake_gpus": _OLD, "num_learner_workers": _ONE_LOOP},
    "framework": {
        "torch_compile_learner torch_compile_learner_dynamo_backend torch_compile_learner_dynamo_mode "
        "torch_compile_learner_what_to_compile torch_compile_worker torch_compile_worker_dynamo_backend "
        "torch_compile_worker_dynamo_mode": _NO_COMPILE,
        "eager_max_retraces eager_tracing tf_session_args local_tf_session_args": _TORCH,
        "torch_ddp_kwargs": _ONE_LOOP,
        "torch_skip_nan_gradients": "a gradient that is not finite is an error worth seeing",
    },
    "environment": {
        "env_config clip_rewards is_atari action_mask_key": _PROTOCOL,
        "observation_space action_space": "they follow from the game",
        "clip_actions normalize_actions": "actions are discrete",
        "disable_env_checking render_env env_task_fn": _OLD,
    },
    "env_runners": {
        "num_env_runners num_rollout_workers create_local_env_runner create_env_on_local_worker": _ONE_LOOP,
        "num_envs_per_env_runner num_envs_per_worker gym_env_vectorize_mode": _ONE_LOOP,
        "rollout_fragment_length batch_mode": _ONE_LOOP,
        "env_to_module_connector module_to_env_connector merge_env_runner_states episode_lookback_horizon "
        "add_default_connectors_to_env_to_module_pipeline add_default_connectors_to_module_to_env_pipeline": (
            _NO_CONNECTORS
        ),
        "use_env_runner_state_server env_runner_state_server_max_concurrency": _ONE_LOOP,
        "episodes_to_numpy": "episodes are always NumPy's",
        "restart_failed_sub_environments num_consecutive_worker_failures_tolerance": "ALE's games do not fail",
        "observation_filter update_worker_filter_stats use_worker_filter_stats synchronize_filter": _NO_CONNECTORS,
        "compress_observations enable_connectors enable_tf1_exec_eagerly preprocessor_pref remote_env_batch_wait_ms "
        "remote_worker_envs sample_collector sampler_perf_stats_ema_coef": _OLD,
    },
    "learners": {
        "num_learners num_aggregator_actors_per_learner max_requests_in_flight_per_aggregator_actor "
        "max_requests_in_flight_per_learner custom_resources_per_learner": _ONE_LOOP,
        "learner_connector add_default_connectors_to_learner_pipeline": _NO_CONNECTORS,
    },
    "training": {
        "learner_connector add_default_connectors_to_learner_pipeline": _NO_CONNECTORS,
        "num_aggregator_actors_per_learner max_requests_in_flight_per_aggregator_actor training_intensity": _ONE_LOOP,
        "num_epochs num_sgd_iter minibatch_size shuffle_batch_per_epoch": "an update is one batch of replay, seen once",
        "grad_clip_by": "gradients are clipped by their global norm",
        "lr_schedule model before_learn_on_batch": _OLD,
        "categorical_distribution_temperature": "actions are the best of mean values",
        "burn_in_len": "the network remembers nothing between steps",
    },
    "callbacks": {"on_evaluate_offline_start on_evaluate_offline_end on_offline_eval_runners_recreated": _OFFLINE},
    "evaluation": {
        "off_policy_estimation_methods ope_split_batch_by_episode offline_evaluation_interval num_offline_eval_runners "
        "offline_evaluation_type offline_eval_runner_class offline_loss_for_module_fn "
        "offline_eval_batch_size_per_runner dataset_num_iters_per_offline_eval_runner "
        "offline_eval_rl_module_inference_only num_cpus_per_offline_eval_runner num_gpus_per_offline_eval_runner "
        "custom_resources_per_offline_eval_runner offline_evaluation_timeout_s "
        "max_requests_in_flight_per_offline_eval_runner broadcast_offline_eval_runner_states "
        "validate_offline_eval_runners_after_construction restart_failed_offline_eval_runners "
        "ignore_offline_eval_runner_failures max_num_offline_eval_runner_restarts "
        "offline_eval_runner_health_probe_timeout_s offline_eval_runner_restore_timeout_s": _OFFLINE,
        "always_attach_evaluation_results": _OLD,
    },
    "offline_data": {
        "input_ offline_data_class input_read_method input_read_method_kwargs input_read_schema input_read_episodes "
        "input_read_sample_batches input_read_batch_size input_filesystem input_filesystem_kwargs "
        "input_compress_columns materialize_data materialize_mapped_data map_batches_kwargs iter_batches_kwargs "
        "ignore_final_observation prelearner_class prelearner_buffer_class prelearner_buffer_kwargs "
        "prelearner_module_synch_period prelearner_use_recorded_module_states dataset_num_iters_per_learner "
        "input_config actions_in_input_normalized postprocess_inputs shuffle_buffer_size offline_sampling": _OFFLINE,
        "output output_config output_compress_columns output_max_file_size output_max_rows_per_file "
        "output_write_remaining_data output_write_method output_write_method_kwargs output_filesystem "
        "output_filesystem_kwargs output_write_episodes": "replay is kept in checkpoints; frames are not recorded",
    },
    "multi_agent": {
        "policies policy_mapping_fn policies_to_train algorithm_config_overrides_per_module observation_fn": _ONE_AGENT,
        "policy_map_capacity policy_map_cache policy_states_are_swappable replay_mode": _OLD,
    },
    "reporting": {"keep_per_episode_custom_metrics metrics_episode_collection_timeout_s": _OLD},
    "checkpointing": {"export_native_model_files checkpoint_trainable_policies_only": _OLD},
    "debugging": {"fake_sampler": _OLD},
    "fault_tolerance": {"restart_failed_sub_environments": "ALE's games do not fail"},
    "rl_module": {"algorithm_config_overrides_per_module": _ONE_AGENT, "_enable_rl_module_api": _OLD},
    "experimental": {
        "_validate_config": "a setting that Rainbow cannot have cannot be trained",
        "_torch_grad_scaler_class _torch_lr_scheduler_classes": "the update is ours",
        "_tf_policy_handles_more_than_one_loss _disable_preprocessor_api _disable_action_flattening "
        "_disable_initialize_loss_from_dummy_batch": _OLD,
    },
}

_STORED_AS = {
    "is_atari": "_is_atari",
    "env_to_module_connector": "_env_to_module_connector",
    "module_to_env_connector": "_module_to_env_connector",
    "learner_connector": "_learner_connector",
    "framework": "framework_str",
    "dataset_num_iters_per_offline_eval_runner": "dataset_num_iters_per_eval_runner",
    "on_evaluate_offline_start": "callbacks_on_evaluate_offline_start",
    "on_evaluate_offline_end": "callbacks_on_evaluate_offline_end",
    "on_offline_eval_runners_recreated": "callbacks_on_offline_eval_runners_recreated",
}

# Honoured at one value.
_ONE_VALUE = {
    "framework": "framework",
    "enable_rl_module_and_learner": "api_stack",
    "enable_env_runner_and_connector_v2": "api_stack",
    "store_buffer_in_checkpoints": "training",
}

# What RLlib itself changes in the config of evaluation.
_OF_EVALUATION = frozenset({"num_env_runners", "batch_mode", "rollout_fragment_length", "explore"})


class Option(NamedTuple):
    """One option of RLlib's builder and what becomes of it."""

    method: str
    name: str
    note: str


def options(table: dict[str, dict[str, str]]) -> Iterator[Option]:
    """The options of one column, one by one."""
    for method, notes in table.items():
        for names, note in notes.items():
            for name in names.split():
                yield Option(method, name, note)


def check(values: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuses options that were changed and would have no effect.

    Args:
        values: attributes of a config.
        defaults: those of an unchanged config.

    Raises:
        InputError: such an option.
    """
    single = (Option(method, name, "it has one value here") for name, method in _ONE_VALUE.items())
    for option in (*options(REFUSED), *single):
        name = _STORED_AS.get(option.name, option.name)
        if name not in values or name not in defaults or (values.get("in_evaluation") and name in _OF_EVALUATION):
            continue
        value, default = values[name], defaults[name]
        if name == "policies":
            # As a dict, RLlib writes a policy's specification in another form.
            value, default = set(value), set(default)
        if value is default or _equal(value, default):
            continue
        allowed = f"{default!r} only" if isinstance(default, bool | int | float | str | None) else "leave it out"
        raise InputError(f"{option.method}({option.name}={_short(value)}): {allowed}; {option.note}")


def changed(config: AlgorithmConfig) -> dict[str, Any]:
    """Returns the attributes of a config that differ from those of an unchanged config of its class."""
    kind: Any = type(config)
    defaults = kind().to_dict()
    missing = object()
    return {name: value for name, value in config.to_dict().items() if not _equal(value, defaults.get(name, missing))}


def _equal(value: Any, default: Any) -> bool:
    try:
        return bool(value == default)
    except (TypeError, ValueError):
        return False


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else "…"


def markdown() -> str:
    """Both columns as one table for the documentation."""
    lines = ["| method | option | |", "| --- | --- | --- |"]
    for verdict, table in (("honoured", HONOURED), ("refused", REFUSED)):
        for method, notes in table.items():
            for names, note in notes.items():
                listed = ", ".join(f"`{name}`" for name in names.split())
                lines.append(f"| `{method}` | {listed} | {verdict}: {note} |")
    return "\n".join(lines) + "\n"
