//! What `make bench` measures. Each function returns figures; none judges them.

pub mod ansible;
pub mod ceph;
pub mod databases;
pub mod delay;
pub mod figure;
pub mod machine;
pub mod mirror;
pub mod provider;
pub mod site;
pub mod virtualbox;
