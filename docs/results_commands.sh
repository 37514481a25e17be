#!/bin/sh
# What trained the runs of results.md, in its order; written by analysis.results.
# A run that begins with another's weights names that run with the time it was trained:
# put the time of yours.
set -e

# length_25_2026-11-30_23-57-59 on NVIDIA H200, commit 354f983d5072
python hgru.py --set exp_name=length_25 --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_25_stream --set stream_epoch_images=200000 --set aux.timesteps=15 --set initial_weights=weights/hgru_20.safetensors --seed 1

# curriculum_25_2026-12-01_12-39-57 on NVIDIA H200, commit 55587c069bdf
python hgru.py --set exp_name=curriculum_25 --set curriculum=3,6,9,14,20 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_25_stream --set stream_epoch_images=400000 --set validation_iters=250 --set num_validation_evals=20 --set aux.timesteps=15 --set aux.eta_init=1 --seed 1

# curriculum_25_2026-12-01_12-51-43 on NVIDIA H200, commit 55587c069bdf, 99d5a61fc457
python hgru.py --set exp_name=curriculum_25 --set curriculum=3,6,9,14,20 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_25_stream --set stream_epoch_images=400000 --set validation_iters=250 --set num_validation_evals=20 --set aux.timesteps=15 --set aux.eta_init=1 --seed 2

# curriculum_25_2026-12-01_15-28-35 on NVIDIA H200, commit 99d5a61fc457
python hgru.py --set exp_name=curriculum_25 --set curriculum=3,6,9,14,20 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_25_stream --set stream_epoch_images=400000 --set validation_iters=250 --set num_validation_evals=20 --set aux.timesteps=15 --set aux.eta_init=1 --seed 3

# length_20_2026-11-30_20-42-09 on NVIDIA H200, commit 9ec29885e5e7
python hgru.py --set exp_name=length_20 --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_20_stream --set stream_epoch_images=200000 --set aux.timesteps=12 --set initial_weights=weights/hgru_14_curriculum.safetensors --seed 1

# length_20_2026-11-30_23-53-46 on NVIDIA H200, commit 354f983d5072
python hgru.py --set exp_name=length_20 --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_20_stream --set stream_epoch_images=200000 --set aux.timesteps=12 --set initial_weights=until80_cooldown_2026-11-30_17-19-54 --seed 2

# length_18_2026-12-01_12-45-51 on NVIDIA H200, commit 55587c069bdf
python hgru.py --set exp_name=length_18 --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_18_stream --set stream_epoch_images=200000 --set aux.timesteps=11 --set initial_weights=weights/hgru_14_curriculum.safetensors --seed 1

# protocol_2026-12-01_02-43-37 on NVIDIA H200, commit 7228c7ee11b5
python hgru.py --set exp_name=protocol --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --seed 1

# protocol_2026-12-01_06-04-02 on NVIDIA H200, commit bf72a2a01d63, 5fc2a398de15
python hgru.py --set exp_name=protocol --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --seed 2

# protocol_2026-12-01_06-31-25 on NVIDIA H200, commit bf72a2a01d63, 99d5a61fc457
python hgru.py --set exp_name=protocol --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --seed 3

# protocol_128_2026-12-01_15-40-50 on NVIDIA H200, commit 99d5a61fc457
python hgru.py --set exp_name=protocol_128 --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --set batch_size=128 --set validation_iters=250 --set num_validation_evals=13 --seed 1

# protocol_128_2026-12-01_15-43-59 on NVIDIA H200, commit 99d5a61fc457
python hgru.py --set exp_name=protocol_128 --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --set batch_size=128 --set validation_iters=250 --set num_validation_evals=13 --seed 2

# protocol_128_2026-12-01_15-45-45 on NVIDIA H200, commit 99d5a61fc457
python hgru.py --set exp_name=protocol_128 --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --set batch_size=128 --set validation_iters=250 --set num_validation_evals=13 --seed 3

# protocol_1e-5_2026-12-01_02-57-43 on NVIDIA H200, cpu, commit 7228c7ee11b5
python hgru.py --set exp_name=protocol_1e-5 --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --set aux.readout_epsilon=1e-5 --seed 1

# protocol_eta1_2026-12-01_12-26-02 on NVIDIA H200, commit 55587c069bdf
python hgru.py --set exp_name=protocol_eta1 --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --set aux.eta_init=1 --seed 1

# protocol_eta1_2026-12-01_12-26-04 on NVIDIA H200, commit 55587c069bdf
python hgru.py --set exp_name=protocol_eta1 --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --set aux.eta_init=1 --seed 2

# protocol_eta1_2026-12-01_12-26-06 on NVIDIA H200, commit 55587c069bdf
python hgru.py --set exp_name=protocol_eta1 --set dataset=pathfinder_14_stream --set stream_epoch_images=900000 --set epochs=2 --set aux.eta_init=1 --seed 3

# b_2026-11-25_18-11-56 on NVIDIA H100 80GB HBM3, commit 5de5465d31ed (with uncommitted changes)
python hgru.py --set exp_name=b --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set epochs=1 --set lr_schedule=cooldown --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_review=0 --seed 1

# c_2026-11-25_18-13-42 on NVIDIA H100 80GB HBM3, commit 5de5465d31ed (with uncommitted changes)
python hgru.py --set exp_name=c --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set epochs=1 --set lr_schedule=cooldown --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set aux.eta_init=1 --set curriculum_review=0 --seed 1

# curriculum_2026-11-25_21-43-10 on NVIDIA H100 80GB HBM3, commit 301f4df6e31d
python hgru.py --set exp_name=curriculum --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set lr_schedule=cosine --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 1

# curriculum_2026-11-25_21-50-37 on NVIDIA H100 80GB HBM3, commit 301f4df6e31d
python hgru.py --set exp_name=curriculum --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set lr_schedule=cosine --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 2

# curriculum_eta1_2026-11-25_21-43-14 on NVIDIA H100 80GB HBM3, commit 301f4df6e31d
python hgru.py --set exp_name=curriculum_eta1 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set lr_schedule=cosine --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --set aux.eta_init=1 --seed 1

# curriculum_eta1_2026-11-25_21-50-35 on NVIDIA H100 80GB HBM3, commit 301f4df6e31d
python hgru.py --set exp_name=curriculum_eta1 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set lr_schedule=cosine --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --set aux.eta_init=1 --seed 2

# curriculum_eta1_until80_2026-11-25_22-11-41 on NVIDIA H100 80GB HBM3, commit 301f4df6e31d
python hgru.py --set exp_name=curriculum_eta1_until80 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set aux.eta_init=1 --set lr_schedule=cosine --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 1

# curriculum_eta1_until80_2026-11-25_22-11-40 on NVIDIA H100 80GB HBM3, commit 301f4df6e31d
python hgru.py --set exp_name=curriculum_eta1_until80 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set aux.eta_init=1 --set lr_schedule=cosine --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 2

# d_2026-11-25_18-13-39 on NVIDIA H100 80GB HBM3, commit 5de5465d31ed (with uncommitted changes)
python hgru.py --set exp_name=d --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set epochs=1 --set lr_schedule=cooldown --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_review=0 --seed 2

# e_2026-11-25_18-56-20 on NVIDIA H100 80GB HBM3, commit 5de5465d31ed (with uncommitted changes)
python hgru.py --set exp_name=e --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set epochs=1 --set lr_schedule=cooldown --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --seed 1

# mixed_2026-11-30_20-56-19 on NVIDIA H200, commit 9ec29885e5e7
python hgru.py --set exp_name=mixed --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_until=0.8 --set dataset=pathfinder_14_stream --set aux.eta_init=1 --set stream_epoch_images=500000 --set curriculum_alone=false --seed 1

# mixed_2026-12-01_00-04-28 on NVIDIA H200, commit 354f983d5072
python hgru.py --set exp_name=mixed --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set stream_epoch_images=600000 --set aux.eta_init=1 --set curriculum_alone=false --seed 2

# until80_cooldown_2026-11-30_17-27-20 on NVIDIA H200, commit 10be8f2a8095
python hgru.py --set exp_name=until80_cooldown --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set aux.eta_init=1 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 1

# until80_cooldown_2026-11-30_17-19-54 on NVIDIA H200, commit 10be8f2a8095
python hgru.py --set exp_name=until80_cooldown --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set aux.eta_init=1 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 2

# until80_cooldown_2026-11-30_17-27-17 on NVIDIA H200, commit 10be8f2a8095
python hgru.py --set exp_name=until80_cooldown --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set aux.eta_init=1 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 3

# until80_cooldown_2026-11-30_17-33-34 on NVIDIA H200, commit 10be8f2a8095
python hgru.py --set exp_name=until80_cooldown --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set aux.eta_init=1 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 4

# until80_cooldown_2026-11-30_17-33-36 on NVIDIA H200, commit 10be8f2a8095
python hgru.py --set exp_name=until80_cooldown --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set aux.eta_init=1 --set lr_schedule=cooldown --set epochs=1 --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 5

# additive_lesion_2026-11-30_20-47-32 on NVIDIA H200, commit 9ec29885e5e7
python additive_lesion.py --set exp_name=additive_lesion --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_until=0.8 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 1

# additive_lesion_2026-11-30_20-50-30 on NVIDIA H200, commit 9ec29885e5e7
python additive_lesion.py --set exp_name=additive_lesion --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_until=0.8 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 2

# additive_lesion_2026-11-30_23-56-49 on NVIDIA H200, commit 354f983d5072
python additive_lesion.py --set exp_name=additive_lesion --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 3

# ff_5_2026-11-30_20-56-49 on NVIDIA H200, commit 9ec29885e5e7
python ff_5.py --set exp_name=ff_5 --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_until=0.8 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --seed 1

# ff_5_2026-11-30_20-59-04 on NVIDIA H200, commit 9ec29885e5e7
python ff_5.py --set exp_name=ff_5 --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_until=0.8 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --seed 2

# ff_5_2026-12-01_09-19-26 on NVIDIA H200, commit 5fc2a398de15
python ff_5.py --set exp_name=ff_5 --set curriculum=3,6,9 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --seed 2

# ff_5_2026-12-01_00-02-10 on NVIDIA H200, commit 354f983d5072
python ff_5.py --set exp_name=ff_5 --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set stream_epoch_images=600000 --seed 3

# hgru_bn_2026-11-30_23-45-55 on NVIDIA H200, commit 354f983d5072
python hgru_bn.py --set exp_name=hgru_bn --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 1

# hgru_bn_2026-12-01_09-04-26 on NVIDIA H200, commit 5fc2a398de15
python hgru_bn.py --set exp_name=hgru_bn --set curriculum=3,6,9 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --set aux.eta_init=1 --seed 2

# hgru_bn_2026-12-01_09-19-39 on NVIDIA H200, commit 5fc2a398de15, 55587c069bdf
python hgru_bn.py --set exp_name=hgru_bn --set curriculum=3,6,9 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --set aux.eta_init=1 --seed 3

# hgru_bn_for_2026-11-30_23-52-01 on NVIDIA H200, commit 354f983d5072
python hgru_bn_for.py --set exp_name=hgru_bn_for --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 1

# hgru_bn_for_2026-12-01_09-04-29 on NVIDIA H200, commit 5fc2a398de15
python hgru_bn_for.py --set exp_name=hgru_bn_for --set curriculum=3,6,9 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --set aux.eta_init=1 --seed 2

# hgru_bn_for_2026-12-01_09-22-29 on NVIDIA H200, commit 5fc2a398de15, 55587c069bdf
python hgru_bn_for.py --set exp_name=hgru_bn_for --set curriculum=3,6,9 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --set aux.eta_init=1 --seed 3

# hgru_bn_relu_2026-11-30_23-45-55 on NVIDIA H200, commit 354f983d5072
python hgru_bn_relu.py --set exp_name=hgru_bn_relu --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 1

# hgru_bn_relu_2026-12-01_09-08-07 on NVIDIA H200, commit 5fc2a398de15
python hgru_bn_relu.py --set exp_name=hgru_bn_relu --set curriculum=3,6,9 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --set aux.eta_init=1 --seed 2

# hgru_bn_relu_2026-12-01_09-25-26 on NVIDIA H200, commit 5fc2a398de15, 55587c069bdf
python hgru_bn_relu.py --set exp_name=hgru_bn_relu --set curriculum=3,6,9 --set curriculum_until=0.8 --set lr_schedule=cooldown --set epochs=1 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set validation_iters=250 --set num_validation_evals=20 --set aux.eta_init=1 --seed 3

# multiplicative_lesion_2026-11-30_20-42-24 on NVIDIA H200, commit 9ec29885e5e7
python multiplicative_lesion.py --set exp_name=multiplicative_lesion --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_until=0.8 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 1

# multiplicative_lesion_2026-11-30_20-45-18 on NVIDIA H200, commit 9ec29885e5e7
python multiplicative_lesion.py --set exp_name=multiplicative_lesion --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set curriculum=3,6,9 --set curriculum_until=0.8 --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 2

# multiplicative_lesion_2026-12-01_00-01-34 on NVIDIA H200, commit 354f983d5072
python multiplicative_lesion.py --set exp_name=multiplicative_lesion --set lr_schedule=cooldown --set epochs=1 --set validation_iters=250 --set num_validation_evals=20 --set dataset=pathfinder_14_stream --set curriculum=3,6,9 --set curriculum_until=0.8 --set stream_epoch_images=600000 --set aux.eta_init=1 --seed 3

# a_2026-11-25_18-11-55 on NVIDIA H100 80GB HBM3, commit 5de5465d31ed (with uncommitted changes)
python hgru.py --set exp_name=a --set dataset=pathfinder_14_stream --set stream_epoch_images=600000 --set epochs=1 --set lr_schedule=cooldown --set validation_iters=250 --set num_validation_evals=20 --set curriculum=6,9 --set curriculum_review=0 --seed 1
