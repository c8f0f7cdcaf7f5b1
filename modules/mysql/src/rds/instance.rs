//! `mysql_rds_instance`: an Amazon RDS instance for MySQL and its parameter group; `mysql_rds_endpoint`: where it is reached.
//!
//! It deletes nothing: who wants that says so in Amazon's own console. Networks, security groups and roles are not made here.

use std::collections::BTreeMap;
use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_kit::{Finding, Invalid, Module, Notices, Probe, Secret};
use roxmltree::Document;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Account, Api, Refused, text};

/// Manage an Amazon RDS instance for MySQL
///
/// Makes the instance with a parameter group of the same name, waits until it is available, and keeps size, parameters and backups as they are wanted.
/// Runs where the AWS API can be reached, often on the controller. An instance is never deleted, and never restarted: a warning says when a parameter
/// waits for that.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The AWS account.
    aws: Account,
    /// Name of the instance and of its parameter group.
    identifier: String,
    /// Version of MySQL, such as V(8.4). Of an instance that exists it is not changed.
    engine_version: String,
    /// Size of the machine, such as V(db.t4g.medium).
    class: String,
    /// Storage in GiB. It can only grow.
    #[schemars(range(min = 20, max = 65536))]
    storage_gib: u32,
    /// Master user, when the instance is made.
    master_user: String,
    /// Its password, when the instance is made. Later it is not compared: the API does not tell.
    master_password: Secret,
    /// Parameters, named as RDS does. Those that are not here are left alone.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    /// Days that backups are kept. RDS writes a binary log only if there are any, and a server can follow RDS only by that.
    #[serde(default = "week")]
    #[schemars(range(min = 1, max = 35))]
    backup_retention_days: u32,
    /// Subnet group, when the instance is made.
    subnet_group: Option<String>,
    /// Security groups of the network, when the instance is made.
    #[serde(default)]
    security_groups: Vec<String>,
    /// Whether it gets a public address, when it is made.
    #[serde(default)]
    public: bool,
}

fn week() -> u32 {
    7
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    api: Api,
    params: Params,
    /// Of the parameter group: `mysql8.4`.
    family: String,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_identifier(&params.identifier)?;
        let mut numbers = params.engine_version.split('.');
        let family = match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor))
                if major.parse::<u32>().is_ok() && minor.parse::<u32>().is_ok() =>
            {
                format!("mysql{major}.{minor}")
            }
            _ => {
                return Err(Invalid::new(
                    "engine_version",
                    "must have two numbers at least, such as 8.4",
                ));
            }
        };
        if !params.class.starts_with("db.") {
            return Err(Invalid::new("class", "must be such as db.t4g.medium"));
        }
        // As the API has it.
        let length = params.master_password.expose().chars().count();
        if !(8..=41).contains(&length) {
            return Err(Invalid::new(
                "master_password",
                "must have 8 to 41 characters",
            ));
        }
        Ok(Self {
            api: Api::new(params.aws.clone())?,
            family,
            params,
        })
    }
}

/// As the API has it: letters, digits and single hyphens.
fn check_identifier(name: &str) -> Result<(), Invalid> {
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && name.len() <= 63
        && !name.ends_with('-')
        && !name.contains("--");
    if good {
        return Ok(());
    }
    Err(Invalid::new(
        "identifier",
        "must be lower-case letters, digits and single hyphens, and begin with a letter",
    ))
}

/// What the API says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    instance: Option<Instance>,
    /// What was set in the parameter group; `None` if there is none.
    group: Option<BTreeMap<String, String>>,
}

/// An instance as the API tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    engine: String,
    version: String,
    status: String,
    class: String,
    storage_gib: u32,
    backup_retention_days: u32,
    group: String,
    /// `in-sync`, or `pending-reboot` and others.
    group_status: String,
    address: String,
    port: u16,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CreateGroup,
    SetParameters(BTreeMap<String, String>),
    Create,
    /// Names and values as the API has them, and what they are to a person.
    Modify(Vec<(&'static str, String, String)>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateGroup => f.write_str("create the parameter group"),
            Self::SetParameters(parameters) => {
                let list: Vec<String> = parameters
                    .iter()
                    .map(|(name, value)| format!("{name} = {value}"))
                    .collect();
                write!(f, "set in the parameter group: {}", list.join(", "))
            }
            Self::Create => f.write_str("create the instance, and wait until it is available"),
            Self::Modify(changes) => {
                let list: Vec<&str> = changes.iter().map(|(_, _, says)| says.as_str()).collect();
                write!(f, "change the instance: {}", list.join(", "))
            }
        }
    }
}

/// The module.
#[derive(Default)]
pub struct MysqlRdsInstance {
    desired: Option<Desired>,
    warning: Option<String>,
}

impl Module for MysqlRdsInstance {
    const NAME: &'static str = "mysql_rds_instance";
    const EXAMPLES: &'static str = r#"
- name: The instance that follows the site's MySQL
  ondol.cloud.mysql_rds_instance:
    aws:
      region: ap-northeast-2
      access_key_id: "{{ aws_access_key_id }}"
      secret_access_key: "{{ vault_aws_secret_access_key }}"
    identifier: site-mysql
    engine_version: "8.4"
    class: db.t4g.medium
    storage_gib: 100
    master_user: admin
    master_password: "{{ vault_rds_password }}"
    parameters:
      gtid-mode: "ON"
      enforce_gtid_consistency: "ON"
      binlog_format: ROW
  delegate_to: localhost
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.desired = Some(desired.clone());
        let name = &desired.params.identifier;
        let current = Current {
            instance: describe(&desired.api, name)?,
            group: group(&desired.api, name)?,
        };
        if let Some(instance) = &current.instance {
            anyhow::ensure!(
                instance.engine == "mysql",
                "instance {name:?} is not of MySQL: its engine is {}",
                instance.engine
            );
            if instance.storage_gib > desired.params.storage_gib {
                return Err(Invalid::new(
                    "storage_gib",
                    format!(
                        "the instance has {} GiB, and storage cannot shrink",
                        instance.storage_gib
                    ),
                )
                .into());
            }
            self.warning = (!matches!(instance.group_status.as_str(), "" | "in-sync")).then(|| {
                format!(
                    "parameters of instance {name:?} are not all in force: {}. Restart it when that suits",
                    instance.group_status
                )
            });
        }
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let wanted = &desired.params;
        let mut steps = Vec::new();
        let none = BTreeMap::new();
        if current.group.is_none() {
            steps.push(Step::CreateGroup);
        }
        let is = current.group.as_ref().unwrap_or(&none);
        let other: BTreeMap<String, String> = wanted
            .parameters
            .iter()
            .filter(|(name, value)| is.get(*name) != Some(*value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !other.is_empty() {
            steps.push(Step::SetParameters(other));
        }
        let Some(instance) = &current.instance else {
            steps.push(Step::Create);
            return steps;
        };
        let mut changes = Vec::new();
        let mut change = |name, is: &str, wanted: &str, says: String| {
            if is != wanted {
                changes.push((name, wanted.to_owned(), says));
            }
        };
        change(
            "DBInstanceClass",
            &instance.class,
            &wanted.class,
            format!("class {}", wanted.class),
        );
        change(
            "AllocatedStorage",
            &instance.storage_gib.to_string(),
            &wanted.storage_gib.to_string(),
            format!("{} GiB", wanted.storage_gib),
        );
        change(
            "BackupRetentionPeriod",
            &instance.backup_retention_days.to_string(),
            &wanted.backup_retention_days.to_string(),
            format!("backups kept {} days", wanted.backup_retention_days),
        );
        change(
            "DBParameterGroupName",
            &instance.group,
            &wanted.identifier,
            "its parameter group".to_owned(),
        );
        if !changes.is_empty() {
            steps.push(Step::Modify(changes));
        }
        steps
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.clone().expect("observe comes first");
        let (api, name) = (&desired.api, &desired.params.identifier);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        match step {
            Step::CreateGroup => {
                let parameters = [
                    pair("DBParameterGroupName", name),
                    pair("DBParameterGroupFamily", &desired.family),
                    pair(
                        "Description",
                        &format!("of instance {name}, by ondol.cloud"),
                    ),
                ];
                api.call("CreateDBParameterGroup", &parameters).map(drop)
            }
            Step::SetParameters(wanted) => set_parameters(api, name, wanted),
            Step::Create => {
                api.call("CreateDBInstance", &creation(&desired))?;
                wait_available(api, name)
            }
            Step::Modify(changes) => {
                let mut parameters = vec![
                    pair("DBInstanceIdentifier", name),
                    pair("ApplyImmediately", "true"),
                ];
                parameters.extend(changes.iter().map(|(key, value, _)| pair(key, value)));
                api.call("ModifyDBInstance", &parameters)?;
                wait_available(api, name)
            }
        }
    }

    fn notices(&mut self) -> Notices {
        Notices {
            warnings: self.warning.take().into_iter().collect(),
            ..Notices::default()
        }
    }
}

fn creation(desired: &Desired) -> Vec<(String, String)> {
    let wanted = &desired.params;
    let mut parameters: Vec<(String, String)> = [
        ("DBInstanceIdentifier", wanted.identifier.clone()),
        ("Engine", "mysql".to_owned()),
        ("EngineVersion", wanted.engine_version.clone()),
        ("DBInstanceClass", wanted.class.clone()),
        ("AllocatedStorage", wanted.storage_gib.to_string()),
        ("MasterUsername", wanted.master_user.clone()),
        (
            "MasterUserPassword",
            wanted.master_password.expose().to_owned(),
        ),
        ("DBParameterGroupName", wanted.identifier.clone()),
        (
            "BackupRetentionPeriod",
            wanted.backup_retention_days.to_string(),
        ),
        ("PubliclyAccessible", wanted.public.to_string()),
        ("StorageEncrypted", "true".to_owned()),
        ("DeletionProtection", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(subnets) = &wanted.subnet_group {
        parameters.push(("DBSubnetGroupName".to_owned(), subnets.clone()));
    }
    for (index, group) in wanted.security_groups.iter().enumerate() {
        let name = format!("VpcSecurityGroupIds.VpcSecurityGroupId.{}", index + 1);
        parameters.push((name, group.clone()));
    }
    parameters
}

/// The most that the API takes at a time.
const AT_A_TIME: usize = 20;

/// They come into force when the instance starts the next time, which is safe for each: only some can be set while it runs.
fn set_parameters(api: &Api, group: &str, wanted: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let wanted: Vec<_> = wanted.iter().collect();
    for some in wanted.chunks(AT_A_TIME) {
        let mut parameters = vec![("DBParameterGroupName".to_owned(), group.to_owned())];
        for (index, (name, value)) in some.iter().enumerate() {
            for (key, value) in [
                ("ParameterName", name.as_str()),
                ("ParameterValue", value.as_str()),
                ("ApplyMethod", "pending-reboot"),
            ] {
                let key = format!("Parameters.Parameter.{}.{key}", index + 1);
                parameters.push((key, value.to_owned()));
            }
        }
        api.call("ModifyDBParameterGroup", &parameters)?;
    }
    Ok(())
}

/// How long Amazon may take to make or change an instance.
const AVAILABLE: Duration = Duration::from_secs(60 * 60);

fn wait_available(api: &Api, name: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + AVAILABLE;
    let mut pause = Duration::from_millis(200);
    loop {
        let instance = describe(api, name)?;
        let status = instance.map(|it| it.status).unwrap_or_default();
        match status.as_str() {
            "available" | "storage-optimization" => return Ok(()),
            "failed"
            | "deleting"
            | "incompatible-parameters"
            | "incompatible-network"
            | "storage-full" => bail!("instance {name:?} is {status}"),
            _ => {}
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "instance {name:?} is still {status:?} after an hour"
        );
        sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(15));
    }
}

/// `None`: there is certainly none.
fn describe(api: &Api, name: &str) -> anyhow::Result<Option<Instance>> {
    let parameters = [("DBInstanceIdentifier".to_owned(), name.to_owned())];
    match api.call("DescribeDBInstances", &parameters) {
        Ok(xml) => instance(&xml).with_context(|| format!("read what the API says of {name:?}")),
        Err(error) if says(&error, "DBInstanceNotFound") => Ok(None),
        Err(error) => Err(error),
    }
}

/// A code of the API, which some answers end with `Fault`.
fn says(error: &anyhow::Error, code: &str) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(|it| it.code.trim_end_matches("Fault") == code)
}

fn instance(xml: &str) -> anyhow::Result<Option<Instance>> {
    let document = Document::parse(xml)?;
    let named = |name: &'static str| {
        document
            .descendants()
            .find(move |it| it.tag_name().name() == name)
    };
    let Some(node) = named("DBInstance") else {
        return Ok(None);
    };
    let number = |name: &str| -> anyhow::Result<u32> {
        let text = text(node, name);
        text.parse().with_context(|| format!("{name}: {text:?}"))
    };
    let group = named("DBParameterGroup");
    let endpoint = named("Endpoint");
    let port = endpoint.map(|it| text(it, "Port")).unwrap_or_default();
    Ok(Some(Instance {
        engine: text(node, "Engine"),
        version: text(node, "EngineVersion"),
        status: text(node, "DBInstanceStatus"),
        class: text(node, "DBInstanceClass"),
        storage_gib: number("AllocatedStorage")?,
        backup_retention_days: number("BackupRetentionPeriod")?,
        group: group
            .map(|it| text(it, "DBParameterGroupName"))
            .unwrap_or_default(),
        group_status: group
            .map(|it| text(it, "ParameterApplyStatus"))
            .unwrap_or_default(),
        address: endpoint.map(|it| text(it, "Address")).unwrap_or_default(),
        // There is no endpoint while the instance is being made.
        port: port.parse().unwrap_or(0),
    }))
}

/// What was set in a parameter group; `None`: there is certainly none.
fn group(api: &Api, name: &str) -> anyhow::Result<Option<BTreeMap<String, String>>> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut found = BTreeMap::new();
    let mut marker = String::new();
    loop {
        let mut parameters = vec![pair("DBParameterGroupName", name), pair("Source", "user")];
        if !marker.is_empty() {
            parameters.push(pair("Marker", &marker));
        }
        let xml = match api.call("DescribeDBParameters", &parameters) {
            Ok(xml) => xml,
            Err(error) if says(&error, "DBParameterGroupNotFound") => return Ok(None),
            Err(error) => return Err(error),
        };
        marker = read_parameters(&xml, &mut found)
            .with_context(|| format!("read what the API says of parameter group {name:?}"))?;
        if marker.is_empty() {
            return Ok(Some(found));
        }
    }
}

/// Adds a page's parameters; where the next page begins.
fn read_parameters(xml: &str, into: &mut BTreeMap<String, String>) -> anyhow::Result<String> {
    let document = Document::parse(xml)?;
    for node in document.descendants() {
        if node.tag_name().name() == "Parameter" {
            into.insert(text(node, "ParameterName"), text(node, "ParameterValue"));
        }
    }
    let result = document
        .descendants()
        .find(|it| it.tag_name().name() == "DescribeDBParametersResult");
    Ok(result.map(|it| text(it, "Marker")).unwrap_or_default())
}

/// Tell where an Amazon RDS instance is reached
///
/// Runs where the AWS API can be reached, often on the controller.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointParams {
    /// The AWS account.
    aws: Account,
    /// Name of the instance.
    identifier: String,
}

/// `EndpointParams` after checking.
#[derive(Debug, Clone)]
pub struct EndpointDesired {
    api: Api,
    identifier: String,
}

impl TryFrom<EndpointParams> for EndpointDesired {
    type Error = Invalid;

    fn try_from(params: EndpointParams) -> Result<Self, Invalid> {
        check_identifier(&params.identifier)?;
        Ok(Self {
            api: Api::new(params.aws)?,
            identifier: params.identifier,
        })
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Endpoint {
    /// Whether there is such an instance.
    exists: bool,
    /// As Amazon calls its state, such as C(available).
    status: String,
    /// Host name.
    address: String,
    /// Port.
    port: u16,
    /// Version of MySQL.
    engine_version: String,
}

/// The probe.
#[derive(Default)]
pub struct MysqlRdsEndpoint;

impl Probe for MysqlRdsEndpoint {
    const NAME: &'static str = "mysql_rds_endpoint";
    const EXAMPLES: &'static str = r#"
- name: Where RDS is reached
  ondol.cloud.mysql_rds_endpoint:
    aws:
      region: ap-northeast-2
      access_key_id: "{{ aws_access_key_id }}"
      secret_access_key: "{{ vault_aws_secret_access_key }}"
    identifier: site-mysql
  delegate_to: localhost
  register: rds
"#;

    type Params = EndpointParams;
    type Desired = EndpointDesired;
    type Answer = Endpoint;

    fn probe(&mut self, desired: &EndpointDesired) -> anyhow::Result<Finding<Endpoint>> {
        let found = describe(&desired.api, &desired.identifier)?;
        Ok(Finding::good(found.map_or_else(Endpoint::default, |it| {
            Endpoint {
                exists: true,
                status: it.status,
                address: it.address,
                port: it.port,
                engine_version: it.version,
            }
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> serde_json::Value {
        serde_json::json!({
            "aws": {"region": "us-east-1", "access_key_id": "A", "secret_access_key": "hunter2"},
            "identifier": "site", "engine_version": "8.4.3", "class": "db.t4g.medium", "storage_gib": 100,
            "master_user": "admin", "master_password": "hunter2hunter2", "parameters": {"gtid-mode": "ON", "binlog_format": "ROW"},
        })
    }

    fn desired() -> Desired {
        let params: Params = serde_json::from_value(params()).expect("params");
        Desired::try_from(params).expect("valid")
    }

    fn made() -> Current {
        Current {
            instance: Some(Instance {
                engine: "mysql".to_owned(),
                status: "available".to_owned(),
                class: "db.t4g.medium".to_owned(),
                storage_gib: 100,
                backup_retention_days: 7,
                group: "site".to_owned(),
                ..Instance::default()
            }),
            group: Some(
                [
                    ("binlog_format", "ROW"),
                    ("gtid-mode", "ON"),
                    ("other", "1"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ),
        }
    }

    fn lines(current: &Current) -> Vec<String> {
        MysqlRdsInstance::plan(&desired(), current)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn plans() {
        assert_eq!(
            lines(&Current::default()),
            [
                "create the parameter group",
                "set in the parameter group: binlog_format = ROW, gtid-mode = ON",
                "create the instance, and wait until it is available"
            ]
        );
        assert_eq!(lines(&made()), [""; 0]);
        let mut other = made();
        other.group.get_or_insert_default().remove("gtid-mode");
        if let Some(instance) = &mut other.instance {
            instance.class = "db.t4g.small".to_owned();
            instance.storage_gib = 50;
            instance.backup_retention_days = 0;
            instance.group = "default.mysql8.4".to_owned();
        }
        assert_eq!(
            lines(&other),
            [
                "set in the parameter group: gtid-mode = ON",
                "change the instance: class db.t4g.medium, 100 GiB, backups kept 7 days, its parameter group"
            ]
        );
    }

    #[test]
    fn no_password_is_printed() {
        let printed = format!("{:?} {:?}", desired(), lines(&Current::default()));
        assert!(!printed.contains("hunter"), "{printed}");
    }

    #[test]
    fn parameters_that_cannot_be_meant_are_refused() {
        for (key, value, param) in [
            ("identifier", "Site", "identifier"),
            ("identifier", "a--b", "identifier"),
            ("engine_version", "8", "engine_version"),
            ("class", "t4g.medium", "class"),
            ("master_password", "short", "master_password"),
        ] {
            let mut params = params();
            params[key] = value.into();
            let params: Params = serde_json::from_value(params).expect("params");
            assert_eq!(Desired::try_from(params).expect_err(value).param, param);
        }
        assert_eq!(desired().family, "mysql8.4");
    }

    #[test]
    fn an_answer_is_read() {
        let xml = r#"<DescribeDBInstancesResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><DescribeDBInstancesResult><DBInstances><DBInstance>
            <DBInstanceIdentifier>site</DBInstanceIdentifier><DBInstanceClass>db.t4g.medium</DBInstanceClass><Engine>mysql</Engine>
            <DBInstanceStatus>available</DBInstanceStatus><Endpoint><Address>site.x.us-east-1.rds.amazonaws.com</Address><Port>3306</Port></Endpoint>
            <AllocatedStorage>100</AllocatedStorage><BackupRetentionPeriod>7</BackupRetentionPeriod><EngineVersion>8.4.3</EngineVersion>
            <DBParameterGroups><DBParameterGroup><DBParameterGroupName>site</DBParameterGroupName>
            <ParameterApplyStatus>pending-reboot</ParameterApplyStatus></DBParameterGroup></DBParameterGroups>
            </DBInstance></DBInstances></DescribeDBInstancesResult></DescribeDBInstancesResponse>"#;
        let found = instance(xml).expect("read").expect("an instance");
        assert_eq!(
            (found.address.as_str(), found.port, found.storage_gib),
            ("site.x.us-east-1.rds.amazonaws.com", 3306, 100)
        );
        assert_eq!(
            (found.group.as_str(), found.group_status.as_str()),
            ("site", "pending-reboot")
        );
        assert_eq!(
            instance("<DescribeDBInstancesResponse/>").expect("read"),
            None
        );
        let mut into = BTreeMap::new();
        let page = "<R><DescribeDBParametersResult><Parameters><Parameter><ParameterName>gtid-mode</ParameterName>\
                    <ParameterValue>ON</ParameterValue></Parameter></Parameters><Marker>next</Marker></DescribeDBParametersResult></R>";
        assert_eq!(read_parameters(page, &mut into).expect("read"), "next");
        assert_eq!(into.get("gtid-mode").map(String::as_str), Some("ON"));
    }
}
