//! What Terraform 1.11 does not send, and what nobody but Terraform may: calls of a client of our own.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tfplugin::client::{Certificate, GrpcControllerClient, Plugin, ProviderClient};
use tfplugin::cty::{Type, msgpack};
use tfplugin::proto::plugin::Empty;
use tfplugin::proto::tfplugin6::{self as wire, DynamicValue, ResourceIdentityData};
use tonic::Code;
use tonic::transport::Channel;

use crate::terraform::{PROVIDER, signal};

struct Sample {
    plugin: Plugin,
    certificate: Certificate,
    client: ProviderClient<Channel>,
    machine: tempfile::TempDir,
}

/// A provider with a configuration.
async fn sample() -> Sample {
    let certificate = Certificate::new().expect("a certificate");
    let plugin = Plugin::start(Command::new(PROVIDER), &certificate)
        .await
        .expect("it starts");
    let mut client = plugin
        .client(&certificate)
        .await
        .expect("it accepts Terraform");
    let machine = tempfile::tempdir().expect("a folder");
    let request = wire::configure_provider::Request {
        config: Some(as_json(
            &json!({"directory": machine.path(), "greeting": null}),
        )),
        ..Default::default()
    };
    let answer = client
        .configure_provider(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.diagnostics, []);
    Sample {
        plugin,
        certificate,
        client,
        machine,
    }
}

fn as_json(value: &Value) -> DynamicValue {
    DynamicValue {
        json: value.to_string().into_bytes(),
        msgpack: Vec::new(),
    }
}

fn name_of(identity: Option<ResourceIdentityData>) -> String {
    let data = identity
        .expect("an identity")
        .identity_data
        .expect("with data");
    let kind = Type::from_json(&json!(["object", {"name": "string"}])).expect("a type");
    let value = msgpack::decode(&data.msgpack, &kind).expect("it decodes");
    value
        .get("name")
        .and_then(|name| name.as_str())
        .expect("a name")
        .to_owned()
}

/// A `sample_file` with this name and nothing else set.
fn file(name: &str) -> DynamicValue {
    as_json(&json!({"name": name, "content": "x", "mode": 420, "access": "private", "keep": false}))
}

#[tokio::test]
async fn identities_are_announced_reported_and_imported_from() {
    let mut sample = sample().await;
    let client = &mut sample.client;
    let request = wire::get_resource_identity_schemas::Request {};
    let schemas = client
        .get_resource_identity_schemas(request)
        .await
        .expect("an answer")
        .into_inner();
    let names: Vec<_> = schemas.identity_schemas.keys().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let attribute = &schemas.identity_schemas["sample_file"].identity_attributes[0];
    assert!(attribute.required_for_import);

    let create = wire::apply_resource_change::Request {
        type_name: "sample_file".to_owned(),
        planned_state: Some(file("a")),
        config: Some(file("a")),
        ..Default::default()
    };
    let created = client
        .apply_resource_change(create)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(created.diagnostics, []);
    assert_eq!(name_of(created.new_identity), "a");

    let import = wire::import_resource_state::Request {
        type_name: "sample_file".to_owned(),
        identity: Some(ResourceIdentityData {
            identity_data: Some(as_json(&json!({"name": "a"}))),
        }),
        ..Default::default()
    };
    let imported = client
        .import_resource_state(import)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(imported.diagnostics, []);
    let resource = imported
        .imported_resources
        .into_iter()
        .next()
        .expect("one resource");
    assert_eq!(name_of(resource.identity), "a");
    let read = wire::read_resource::Request {
        type_name: "sample_file".to_owned(),
        current_state: resource.state,
        ..Default::default()
    };
    let read = client
        .read_resource(read)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(name_of(read.new_identity), "a");

    let upgrade = wire::upgrade_resource_identity::Request {
        type_name: "sample_file".to_owned(),
        version: 0,
        raw_identity: Some(wire::RawState {
            json: br#"{"name": "a", "lost": 1}"#.to_vec(),
            ..Default::default()
        }),
    };
    let upgraded = client
        .upgrade_resource_identity(upgrade)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(name_of(upgraded.upgraded_identity), "a");
}

#[tokio::test]
async fn what_an_ephemeral_resource_remembers_goes_from_call_to_call() {
    let mut sample = sample().await;
    let client = &mut sample.client;
    let type_name = "sample_token".to_owned();
    let open = wire::open_ephemeral_resource::Request {
        type_name: type_name.clone(),
        config: Some(as_json(&json!({"owner": "ann", "renew_millis": 1000}))),
        ..Default::default()
    };
    let opened = client
        .open_ephemeral_resource(open)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(opened.diagnostics, []);
    assert!(opened.renew_at.is_some());
    let renew = wire::renew_ephemeral_resource::Request {
        type_name: type_name.clone(),
        private: opened.private,
    };
    let renewed = client
        .renew_ephemeral_resource(renew)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(renewed.renew_at, None);
    let close = wire::close_ephemeral_resource::Request {
        type_name,
        private: renewed.private,
    };
    client
        .close_ephemeral_resource(close)
        .await
        .expect("an answer");
    let diary = std::fs::read_to_string(sample.machine.path().join("diary")).expect("a diary");
    assert_eq!(diary, "open ann\nrenew ann\nclose ann after 1 renewals\n");
}

#[tokio::test]
async fn metadata_lists_everything_that_the_provider_has() {
    let mut sample = sample().await;
    let client = &mut sample.client;
    let metadata = client
        .get_metadata(wire::get_metadata::Request {})
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(metadata.resources.len(), 8);
    assert_eq!(metadata.data_sources[0].type_name, "sample_files");
    assert_eq!(metadata.ephemeral_resources[0].type_name, "sample_token");
    assert_eq!(metadata.functions.len(), 2);
    let functions = client
        .get_functions(wire::get_functions::Request {})
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(functions.functions.len(), 2);
}

#[tokio::test]
async fn calls_that_are_not_offered_are_answered_unimplemented() {
    let mut sample = sample().await;
    let client = &mut sample.client;
    let generate = client
        .generate_resource_config(wire::generate_resource_config::Request::default())
        .await;
    assert_eq!(
        generate.expect_err("not offered").code(),
        Code::Unimplemented
    );
    let list = client
        .list_resource(wire::list_resource::Request::default())
        .await;
    assert_eq!(list.expect_err("not offered").code(), Code::Unimplemented);
    let action = client
        .plan_action(wire::plan_action::Request::default())
        .await;
    assert_eq!(action.expect_err("not offered").code(), Code::Unimplemented);
    let states = client
        .get_states(wire::get_states::Request::default())
        .await;
    assert_eq!(states.expect_err("not offered").code(), Code::Unimplemented);
}

#[tokio::test]
async fn an_unknown_resource_is_a_diagnostic() {
    let mut sample = sample().await;
    let client = &mut sample.client;
    let request = wire::read_resource::Request {
        type_name: "sample_nothing".to_owned(),
        ..Default::default()
    };
    let answer = client
        .read_resource(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(
        answer.diagnostics[0].summary,
        "There is no resource sample_nothing"
    );
}

#[tokio::test]
async fn a_value_that_does_not_decode_is_answered_with_its_path() {
    let mut sample = sample().await;
    let client = &mut sample.client;
    let request = wire::validate_resource_config::Request {
        type_name: "sample_nested".to_owned(),
        config: Some(as_json(
            &json!({"name": "a", "map": {"x": {"size_mib": "many"}}}),
        )),
        ..Default::default()
    };
    let answer = client
        .validate_resource_config(request)
        .await
        .expect("an answer")
        .into_inner();
    let diagnostic = &answer.diagnostics[0];
    assert_eq!(diagnostic.summary, "map[\"x\"].size_mib cannot be read");
    assert_eq!(
        diagnostic.attribute.as_ref().expect("a path").steps.len(),
        3
    );
}

#[tokio::test]
async fn a_terraform_too_old_for_write_only_values_is_told_so() {
    let mut sample = sample().await;
    let client = &mut sample.client;
    let request = wire::validate_resource_config::Request {
        type_name: "sample_secret".to_owned(),
        config: Some(as_json(&json!({"password": "long enough"}))),
        ..Default::default()
    };
    let answer = client
        .validate_resource_config(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(
        answer.diagnostics[0].summary,
        "password needs Terraform 1.11"
    );
}

#[tokio::test]
async fn without_a_configuration_nothing_is_done() {
    let certificate = Certificate::new().expect("a certificate");
    let plugin = Plugin::start(Command::new(PROVIDER), &certificate)
        .await
        .expect("it starts");
    let mut client = plugin
        .client(&certificate)
        .await
        .expect("it accepts Terraform");
    let request = wire::read_resource::Request {
        type_name: "sample_file".to_owned(),
        current_state: Some(file("a")),
        ..Default::default()
    };
    let answer = client
        .read_resource(request)
        .await
        .expect("an answer")
        .into_inner();
    assert!(answer.diagnostics[0].summary.contains("not configured"));
    assert!(answer.new_state.is_some(), "the state stays");
}

#[tokio::test]
async fn a_client_without_terraforms_certificate_is_refused() {
    let Sample {
        plugin,
        client: _client,
        ..
    } = sample().await;
    let stranger = Certificate::new().expect("a certificate");
    for certificate in [None, Some(&stranger)] {
        let refused = match plugin.connect(certificate).await {
            Err(_) => true,
            // In TLS 1.3 a client learns only from the first answer that it was refused.
            Ok(channel) => {
                let mut client = ProviderClient::new(channel);
                client
                    .get_metadata(wire::get_metadata::Request {})
                    .await
                    .is_err()
            }
        };
        assert!(refused);
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_does_not_hold_up_the_next() {
    let Sample {
        plugin,
        certificate,
        ..
    } = sample().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(plugin.dial().await.expect("it listens"));
    }
    let began = Instant::now();
    let mut client = plugin
        .client(&certificate)
        .await
        .expect("it accepts Terraform");
    client
        .get_metadata(wire::get_metadata::Request {})
        .await
        .expect("an answer");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_interrupt_is_survived() {
    let Sample {
        plugin, mut client, ..
    } = sample().await;
    signal(plugin.process.id().expect("it runs"), "INT");
    tokio::time::sleep(Duration::from_millis(100)).await;
    client
        .get_metadata(wire::get_metadata::Request {})
        .await
        .expect("it still answers");
}

#[tokio::test]
async fn an_operation_outlives_a_dropped_connection() {
    let Sample {
        plugin: _plugin,
        mut client,
        machine,
        ..
    } = sample().await;
    let diary = || std::fs::read_to_string(machine.path().join("diary")).unwrap_or_default();
    let config = as_json(&json!({"create_millis": 1500, "deaf": false}));
    let request = wire::apply_resource_change::Request {
        type_name: "sample_slow".to_owned(),
        planned_state: Some(config.clone()),
        config: Some(config),
        ..Default::default()
    };
    tokio::select! {
        answer = client.apply_resource_change(request) => panic!("it should take longer: {answer:?}"),
        () = until(|| diary().contains("create began")) => {}
    }
    drop(client);
    until(|| diary().ends_with("create ended\n")).await;
}

/// Waits for what is to come soon, but not for ever.
async fn until(come: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !come() {
        assert!(Instant::now() < patience, "it did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn it_exits_when_terraform_says_so_and_leaves_no_socket() {
    let Sample {
        mut plugin,
        certificate,
        client,
        ..
    } = sample().await;
    let folder = std::path::Path::new(&plugin.address)
        .parent()
        .expect("a folder")
        .to_owned();
    assert!(folder.exists());
    let mut controller =
        GrpcControllerClient::new(plugin.connect(Some(&certificate)).await.expect("a channel"));
    controller.shutdown(Empty {}).await.expect("an answer");
    drop(client);
    let status = tokio::time::timeout(Duration::from_secs(20), plugin.process.wait()).await;
    assert!(status.expect("it ends soon").expect("it ends").success());
    assert!(!folder.exists());
}

#[tokio::test]
async fn what_a_killed_provider_left_goes_when_another_starts() {
    let base = tempfile::tempdir().expect("a folder");
    let certificate = Certificate::new().expect("a certificate");
    let start = || async {
        let mut command = Command::new(PROVIDER);
        command.env("PLUGIN_UNIX_SOCKET_DIR", base.path());
        let plugin = Plugin::start(command, &certificate)
            .await
            .expect("it starts");
        let socket = std::path::PathBuf::from(&plugin.address);
        let folder = socket.parent().expect("a folder").to_owned();
        (plugin, folder)
    };
    let (mut killed, left) = start().await;
    let (_alive, busy) = start().await;
    killed.process.kill().await.expect("it runs");
    for folder in [&left, &busy] {
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::open(folder)
            .and_then(|folder| folder.set_modified(long_ago))
            .expect("it is ours");
    }
    assert!(left.exists());
    let (_next, own) = start().await;
    until(|| !left.exists()).await;
    assert!(busy.join("socket").exists() && own.join("socket").exists());
}

#[tokio::test]
async fn on_a_loopback_port_the_same_rules_hold() {
    let certificate = Certificate::new().expect("a certificate");
    let mut command = Command::new(PROVIDER);
    command.env("SAMPLE_TRANSPORT", "tcp");
    let plugin = Plugin::start(command, &certificate)
        .await
        .expect("it starts");
    assert_eq!(plugin.network, "tcp");
    assert!(plugin.address.starts_with("127.0.0.1:"));
    let mut client = plugin
        .client(&certificate)
        .await
        .expect("it accepts Terraform");
    client
        .get_metadata(wire::get_metadata::Request {})
        .await
        .expect("an answer");
    let stranger = plugin.connect(None).await;
    let refused = match stranger {
        Err(_) => true,
        Ok(channel) => ProviderClient::new(channel)
            .get_metadata(wire::get_metadata::Request {})
            .await
            .is_err(),
    };
    assert!(refused);
}

#[test]
fn a_user_who_runs_it_is_told_what_it_is() {
    let run = Command::new(PROVIDER)
        .env_remove("TF_PLUGIN_MAGIC_COOKIE")
        .output()
        .expect("it runs");
    assert!(!run.status.success());
    assert_eq!(run.stdout, b"");
    assert!(String::from_utf8_lossy(&run.stderr).contains("Terraform provider"));
}

#[test]
fn a_terraform_that_sends_no_certificate_is_refused() {
    let run = Command::new(PROVIDER)
        .env(
            "TF_PLUGIN_MAGIC_COOKIE",
            "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2",
        )
        .env_remove("PLUGIN_CLIENT_CERT")
        .output()
        .expect("it runs");
    assert!(!run.status.success());
    assert!(String::from_utf8_lossy(&run.stderr).contains("PLUGIN_CLIENT_CERT"));
}
