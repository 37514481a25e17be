#!/bin/sh
# What trained the runs of results.md, in its order; written by analysis.results.
# A run that begins with another's weights names that run with the time it was trained:
# put the time of yours.
set -e

# hgru_14_continued_2026-11-25_03-29-03 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_14_stream --set exp_name=hgru_14_continued --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set warmup_iters=200 --set epochs=1 --set stream_epoch_images=450000 --set stream_seed=1 --set validation_iters=500 --set log_iters=100 --set initial_weights=hgru_pathfinder_14_stream_2026-11-25_03-18-41 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_pathfinder_14_stream_2026-11-25_03-18-41 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_14_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=300000 --set validation_iters=500 --set log_iters=100 --set initial_weights=hgru_pathfinder_6_stream_2026-11-25_03-14-23 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# multiplicative_lesion_pathfinder_14_stream_2026-11-25_03-26-12 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python multiplicative_lesion.py --set dataset=pathfinder_14_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=300000 --set validation_iters=500 --set log_iters=100 --set initial_weights=multiplicative_lesion_pathfinder_6_stream_2026-11-25_03-20-42 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# additive_lesion_pathfinder_14_stream_2026-11-25_03-28-18 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python additive_lesion.py --set dataset=pathfinder_14_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=300000 --set validation_iters=500 --set log_iters=100 --set initial_weights=additive_lesion_pathfinder_6_stream_2026-11-25_03-22-45 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# ff_5_pathfinder_14_stream_2026-11-25_03-24-47 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python ff_5.py --set dataset=pathfinder_14_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=300000 --set validation_iters=500 --set log_iters=100 --set initial_weights=ff_5_pathfinder_6_stream_2026-11-25_03-18-45 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_bn_pathfinder_14_stream_2026-11-25_03-36-41 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn.py --set dataset=pathfinder_14_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set initial_weights=hgru_bn_pathfinder_6_stream_2026-11-25_03-31-01 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_bn_for_pathfinder_14_stream_2026-11-25_03-38-50 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn_for.py --set dataset=pathfinder_14_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set initial_weights=hgru_bn_for_pathfinder_6_stream_2026-11-25_03-33-57 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_bn_relu_pathfinder_14_stream_2026-11-25_03-40-31 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn_relu.py --set dataset=pathfinder_14_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set initial_weights=hgru_bn_relu_pathfinder_6_stream_2026-11-25_03-35-28 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_pathfinder_9_stream_2026-11-25_03-25-52 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_9_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set initial_weights=hgru_pathfinder_6_stream_2026-11-25_03-14-23 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# multiplicative_lesion_pathfinder_9_stream_2026-11-25_03-26-30 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python multiplicative_lesion.py --set dataset=pathfinder_9_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set initial_weights=multiplicative_lesion_pathfinder_6_stream_2026-11-25_03-20-42 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# additive_lesion_pathfinder_9_stream_2026-11-25_03-28-25 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python additive_lesion.py --set dataset=pathfinder_9_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set initial_weights=additive_lesion_pathfinder_6_stream_2026-11-25_03-22-45 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# ff_5_pathfinder_9_stream_2026-11-25_03-25-00 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python ff_5.py --set dataset=pathfinder_9_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set initial_weights=ff_5_pathfinder_6_stream_2026-11-25_03-18-45 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_pathfinder_6_stream_2026-11-25_03-14-23 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=300000 --set validation_iters=500 --set log_iters=100 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# multiplicative_lesion_pathfinder_6_stream_2026-11-25_03-20-42 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python multiplicative_lesion.py --set dataset=pathfinder_6_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=300000 --set validation_iters=500 --set log_iters=100 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# additive_lesion_pathfinder_6_stream_2026-11-25_03-22-45 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python additive_lesion.py --set dataset=pathfinder_6_stream --set aux.readout_epsilon=1e-5 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=300000 --set validation_iters=500 --set log_iters=100 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# ff_5_pathfinder_6_stream_2026-11-25_03-18-45 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python ff_5.py --set dataset=pathfinder_6_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=300000 --set validation_iters=500 --set log_iters=100 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_bn_pathfinder_6_stream_2026-11-25_03-31-01 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn.py --set dataset=pathfinder_6_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_bn_for_pathfinder_6_stream_2026-11-25_03-33-57 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn_for.py --set dataset=pathfinder_6_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# hgru_bn_relu_pathfinder_6_stream_2026-11-25_03-35-28 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn_relu.py --set dataset=pathfinder_6_stream --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=100000 --set validation_iters=500 --set log_iters=100 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_epsilon_1e-3_s0_2026-11-25_03-14-20 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_epsilon_1e-3_s0 --set aux.readout_epsilon=1e-3 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_epsilon_1e-3_s1_2026-11-25_03-14-20 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_epsilon_1e-3_s1 --set aux.readout_epsilon=1e-3 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 1

# small_epsilon_1e-3_s2_2026-11-25_03-19-33 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_epsilon_1e-3_s2 --set aux.readout_epsilon=1e-3 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 2

# small_epsilon_1e-5_s0_2026-11-25_03-14-19 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_epsilon_1e-5_s0 --set aux.readout_epsilon=1e-5 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_epsilon_1e-5_s1_2026-11-25_03-14-25 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_epsilon_1e-5_s1 --set aux.readout_epsilon=1e-5 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 1

# small_epsilon_1e-5_s2_2026-11-25_03-20-22 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_epsilon_1e-5_s2 --set aux.readout_epsilon=1e-5 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 2

# small_no_eta_s0_2026-11-25_03-16-17 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_no_eta_s0 --set aux.adaptation=false --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_no_eta_s1_2026-11-25_03-21-14 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_no_eta_s1 --set aux.adaptation=false --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 1

# small_eta_1_s0_2026-11-25_03-17-55 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_eta_1_s0 --set aux.readout_epsilon=1e-5 --set aux.eta_init=1 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_eta_1_s1_2026-11-25_03-22-01 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_eta_1_s1 --set aux.readout_epsilon=1e-5 --set aux.eta_init=1 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 1

# small_lr_3e-3_s0_2026-11-25_03-18-44 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_lr_3e-3_s0 --set aux.readout_epsilon=1e-5 --set lr=3e-3 --set warmup_iters=100 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_batch_128_s0_2026-11-25_03-22-45 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set exp_name=small_batch_128_s0 --set aux.readout_epsilon=1e-5 --set batch_size=128 --set lr=2e-3 --set validation_iters=62 --set num_validation_evals=5 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_hgru_bn_s0_2026-11-25_03-16-12 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_hgru_bn_s0 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_hgru_bn_for_s0_2026-11-25_03-16-12 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn_for.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_hgru_bn_for_s0 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0

# small_hgru_bn_relu_s0_2026-11-25_03-16-14 on NVIDIA H100 80GB HBM3, commit 4778dd605dfa
python hgru_bn_relu.py --set dataset=pathfinder_6_stream --set 'stream_settings={window: 96, border: 6, seed_distance: 20}' --set 'model_input_image_size=[48,48]' --set epochs=1 --set stream_epoch_images=128000 --set validation_iters=250 --set num_validation_evals=20 --set exp_name=small_hgru_bn_relu_s0 --set keep_checkpoints=1 --set keep_every=0 --set save_weights=false --seed 0
