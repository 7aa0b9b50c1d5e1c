//! Tests that see the whole store: its life cycle, its shadow, its neighbours, its enemies.

mod concurrency;
mod kill;
mod life;
mod migration;
mod opening;
mod shadow;
mod tampering;
mod vm_crowd;
mod vm_life;
mod vm_shadow;
