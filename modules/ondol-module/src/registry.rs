//! The list of modules in this binary. Adding a module means adding its line here and regenerating the collection's
//! files with `ondol-module --write-collection modules/collection`.

use ondol_kit::Entry;

/// Sorted by name.
pub(crate) const MODULES: &[Entry] = &[
    Entry::module::<ondol_apt::sources::AptSources>(),
    Entry::module::<ondol_ceph::config::CephConfig>(),
    Entry::module::<ondol_ceph::crush_rule::CephCrushRule>(),
    Entry::module::<ondol_ceph::filesystem::CephFilesystem>(),
    Entry::probe::<ondol_ceph::health::CephHealth>(),
    Entry::module::<ondol_ceph::keys::CephKey>(),
    Entry::module::<ondol_ceph::manager::CephManager>(),
    Entry::module::<ondol_ceph::mds::CephMds>(),
    Entry::module::<ondol_ceph::monitor::CephMonitor>(),
    Entry::module::<ondol_ceph::osd::CephOsd>(),
    Entry::module::<ondol_ceph::pool::CephPool>(),
    Entry::module::<ondol_ceph::rbd_image::CephRbdImage>(),
    Entry::module::<ondol_ceph::rgw::CephRgw>(),
    Entry::module::<ondol_ceph::rgw_user::CephRgwUser>(),
    Entry::module::<ondol_ceph::rgw_zone::CephRgwZone>(),
    Entry::probe::<ondol_host::facts::Facts>(),
    Entry::module::<ondol_host::identity::HostIdentity>(),
    Entry::module::<ondol_mariadb::database::MariadbDatabase>(),
    Entry::module::<ondol_mariadb::arbitrator::Arbitrator>(),
    Entry::module::<ondol_mariadb::galera_node::Galera>(),
    Entry::probe::<ondol_mariadb::status::Status>(),
    Entry::module::<ondol_mariadb::instance::Instance>(),
    Entry::module::<ondol_mariadb::privileges::MariadbPrivileges>(),
    Entry::module::<ondol_mariadb::user::MariadbUser>(),
    Entry::module::<ondol_mysql::database::MysqlDatabase>(),
    Entry::module::<ondol_mysql::fence::MysqlFence>(),
    Entry::module::<ondol_mysql::instance::MysqlInstance>(),
    Entry::module::<ondol_mysql::privileges::MysqlPrivileges>(),
    Entry::probe::<ondol_mysql::rds::instance::MysqlRdsEndpoint>(),
    Entry::module::<ondol_mysql::rds::instance::MysqlRdsInstance>(),
    Entry::module::<ondol_mysql::rds::load::MysqlRdsLoad>(),
    Entry::module::<ondol_mysql::rds::MysqlRdsReplication>(),
    Entry::module::<ondol_mysql::replication::MysqlReplication>(),
    Entry::module::<ondol_mysql::source::MysqlSource>(),
    Entry::probe::<ondol_mysql::status::MysqlStatus>(),
    Entry::module::<ondol_mysql::user::MysqlUser>(),
    Entry::module::<ondol_netplan::Netplan>(),
    Entry::module::<ondol_share::nfs_export::NfsExport>(),
    Entry::module::<ondol_postgresql::PostgresqlDatabase>(),
    Entry::module::<ondol_postgresql::PostgresqlExtension>(),
    Entry::module::<ondol_postgresql::PostgresqlFence>(),
    Entry::module::<ondol_postgresql::PostgresqlInstance>(),
    Entry::module::<ondol_postgresql::PostgresqlPrimary>(),
    Entry::module::<ondol_postgresql::PostgresqlPrivileges>(),
    Entry::module::<ondol_postgresql::PostgresqlRole>(),
    Entry::module::<ondol_postgresql::PostgresqlStandby>(),
    Entry::probe::<ondol_postgresql::PostgresqlStatus>(),
    Entry::module::<ondol_postgresql::PostgresqlSynchronous>(),
    Entry::probe::<ondol_host::reachability::Reachability>(),
    Entry::probe::<ondol_report::ReportModule>(),
    Entry::module::<ondol_share::samba_share::SambaShare>(),
    Entry::module::<ondol_share::samba_user::SambaUser>(),
    Entry::module::<ondol_share::vsftpd::Vsftpd>(),
];

pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    let name = name.strip_prefix("ondol.cloud.").unwrap_or(name);
    MODULES.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_differ() {
        let names: Vec<&str> = MODULES.iter().map(|entry| entry.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
    }

    #[test]
    fn no_schema_promises_a_rule_that_the_kit_does_not_enforce() {
        for entry in MODULES {
            let found = ondol_kit::unsupported_keywords(&entry.schema());
            assert_eq!(found, [""; 0], "{}", entry.name);
        }
    }

    /// In YAML 1.1, which Ansible reads, these words are booleans even as keys: the parameter could not be given.
    #[test]
    fn no_parameter_is_a_boolean_to_yaml() {
        fn keys(schema: &serde_json::Value, found: &mut Vec<String>) {
            if let Some(map) = schema.as_object() {
                for (word, inner) in map {
                    let named = inner.as_object().filter(|_| word == "properties");
                    found.extend(named.into_iter().flat_map(|it| it.keys().cloned()));
                    keys(inner, found);
                }
            }
            for inner in schema.as_array().into_iter().flatten() {
                keys(inner, found);
            }
        }
        for entry in MODULES {
            let mut found = Vec::new();
            keys(&entry.schema(), &mut found);
            for key in found {
                let word = key.to_lowercase();
                assert!(
                    !["y", "n", "yes", "no", "on", "off", "true", "false"].contains(&word.as_str()),
                    "{}: {key}",
                    entry.name
                );
            }
        }
    }

    #[test]
    fn no_answer_uses_a_reserved_key() {
        for entry in MODULES {
            let schema = entry.answer_schema().unwrap_or_default();
            let keys = schema.pointer("/properties").and_then(|it| it.as_object());
            for key in keys.into_iter().flat_map(|map| map.keys()) {
                assert!(
                    !ondol_kit::RESERVED.contains(&key.as_str()),
                    "{}: {key}",
                    entry.name
                );
            }
        }
    }

    #[test]
    fn a_module_is_found_with_and_without_the_collection() {
        assert!(find("facts").is_some());
        assert!(find("ondol.cloud.facts").is_some());
        assert!(find("other.cloud.facts").is_none());
    }
}
