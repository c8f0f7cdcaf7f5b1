//! Ceph from packages: each module is one member of a cluster (monitor, manager, OSD, MDS) or one object in it (pool, rule, key, file system).
//!
//! Written against Ceph 16 and 17. It speaks to a cluster through its own tools and reads their JSON; it installs no packages and makes no
//! backups of data.

mod cluster;
mod conf;
mod daemon;
mod key;
mod map;
mod system;

pub mod config;
pub mod crush_rule;
pub mod filesystem;
pub mod health;
pub mod keys;
pub mod manager;
pub mod mds;
pub mod monitor;
pub mod osd;
pub mod pool;
pub mod rbd_image;
pub mod rgw;
pub mod rgw_user;
pub mod rgw_zone;
