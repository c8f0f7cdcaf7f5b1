//! Shares: what NFS, SMB and FTP servers give to whom. Each configuration is judged by its server before it replaces the one in use.
//!
//! It installs no packages and makes no directories, system users or certificates: those are ansible.builtin's.

mod md4;
mod service;

pub mod nfs_export;
pub mod samba_share;
pub mod samba_user;
pub mod vsftpd;
