//! MySQL to Amazon RDS and back. RDS is a stand-in on a lab machine, and so is Amazon's API.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ondol_tests::ansible::changed_tasks;
use ondol_tests::{Site, step};

use super::{MYSQL_REPLICA as REPLICA, MYSQL_SOURCE as SOURCE};

/// A second server in a network of its own, "the cloud", behind the old source, which is a replica since the drill. It has RDS's procedures and RDS's
/// parameters, and Amazon's API is a stand-in: what this shows is that the playbooks keep the contract, not that Amazon does.
const CLOUD: &str = r#"
set -e
ip netns add cloud
ip link add cloud0 type veth peer name eth0 netns cloud
ip address add 10.20.0.1/24 dev cloud0
ip link set cloud0 up
ip -n cloud address add 10.20.0.2/24 dev eth0
ip -n cloud link set eth0 up
ip -n cloud link set lo up
ip -n cloud route add default via 10.20.0.1
sysctl -qw net.ipv4.ip_forward=1
install -d -o mysql -g mysql -m 0750 /var/lib/rds /var/lib/rds/tls
chown mysql: /tmp/rds-*.pem
mv /tmp/rds-*.pem /var/lib/rds/tls
mysqld --no-defaults --user=mysql --datadir=/var/lib/rds/data --initialize-insecure
systemd-run --quiet --unit=rds --property=NetworkNamespacePath=/run/netns/cloud --property=User=mysql \
  mysqld --no-defaults --datadir=/var/lib/rds/data --socket=/var/lib/rds/socket --mysqlx=OFF --server-id=99 \
  --gtid-mode=ON --enforce-gtid-consistency=ON --replicate-wild-ignore-table=mysql.% --require-secure-transport=ON \
  --innodb-buffer-pool-size=64M --ssl-ca=/var/lib/rds/tls/rds-ca.pem --ssl-cert=/var/lib/rds/tls/rds-cert.pem --ssl-key=/var/lib/rds/tls/rds-key.pem
mysqladmin --no-defaults --user=root --socket=/var/lib/rds/socket --wait=60 --silent ping
"#;
const ROOT_OF_RDS: &str = "mysql --no-defaults --user=root --socket=/var/lib/rds/socket -BN";
const RDS: &str = include_str!("../../../modules/mysql/tests/support/rds.sql");
const MASTER: &str = "master-of-the-cloud";

pub(crate) fn to_rds_and_back(site: &Site) -> Result<()> {
    step("a stand-in of RDS, and one of Amazon's API");
    let secrets = site.directory().join("secrets");
    let authority = secrets.join("site_authority.pem");
    std::fs::copy(&authority, secrets.join("rds-authority.pem")).context("name RDS's authority")?;
    std::fs::write(secrets.join("rds_master"), MASTER).context("choose the master password")?;
    let made = site.must(&format!(
        r#"cd "$(mktemp -d)"; s={}; openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=rds -keyout key.pem -out rds.csr 2>/dev/null
           openssl x509 -req -in rds.csr -days 30 -CA "$s.pem" -CAkey "$s.key" -extfile <(echo subjectAltName=IP:10.20.0.2) -out cert.pem 2>/dev/null
           cp "$s.pem" ca.pem; chmod a+r *.pem
           for p in key cert ca; do echo "cat >/tmp/rds-$p.pem <<'END'"; cat $p.pem; echo END; done; rm -r "$PWD""#,
        secrets.join("site_authority").display()
    ))?;
    site.shell(SOURCE, &format!("{made}{CLOUD}"))?;
    site.shell(SOURCE, &format!("{ROOT_OF_RDS} <<'END'\n{RDS}\nSET sql_log_bin = OFF; ALTER USER admin IDENTIFIED BY '{MASTER}';\nEND"))?;
    site.shell(
        REPLICA,
        &format!("ip route add 10.20.0.0/24 via \"$(getent ahostsv4 {SOURCE} | awk '{{ print $1; exit }}')\""),
    )?;
    let amazon = Amazon::start()?;
    let line = |playbook: &str| {
        format!(
            "export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=never-printed AWS_ENDPOINT_URL_RDS=http://127.0.0.1:{}; \
             ansible-playbook playbooks/{playbook} -e rds_address=10.20.0.2",
            amazon.port
        )
    };
    let run = |playbook: &str| site.must(&line(playbook));
    let here = |sql: &str| site.shell(REPLICA, &format!("mysql -BNe \"{sql}\" app"));
    let there = |sql: &str| site.shell(SOURCE, &format!("{ROOT_OF_RDS} -e \"{sql}\" app"));
    let rows = "SELECT COUNT(*), SUM(CRC32(word)) FROM orders";
    let insert = |from: u32, to: u32| {
        format!(
            "INSERT INTO orders WITH RECURSIVE n AS (SELECT {from} AS n UNION ALL SELECT n + 1 FROM n WHERE n < {to}) SELECT n, SHA2(n, 256) FROM n"
        )
    };

    step("RDS is made, loaded, and follows");
    here("CREATE TABLE orders (n INT PRIMARY KEY, word TEXT)")?;
    here(&insert(1, 500))?;
    let first = run("mysql-to-rds.yml")?;
    here(&insert(501, 1000))?;
    let executed = here("SELECT @@gtid_executed")?.replace("\\n", "");
    let late = there(&format!(
        "SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', 120)",
        executed.trim()
    ))?;
    assert_eq!(late.trim(), "0", "RDS follows");
    assert_eq!(there(rows)?, here(rows)?);
    ensure!(there(rows)?.starts_with("1000\t"), "{}", there(rows)?);
    let page = std::fs::read_to_string(site.report().join("report.json"))
        .context("read the report's JSON twin")?;
    ensure!(
        page.contains("MySQL: RDS follows the source"),
        "the report lacks RDS"
    );

    step("RDS stops, and goes on where it stopped");
    let only = BTreeSet::from([("RDS follows, or does not".to_owned(), REPLICA.to_owned())]);
    let stopped = run("mysql-to-rds.yml -e rds_state=stopped")?;
    assert_eq!(changed_tasks(&stopped), only);
    here("UPDATE orders SET word = 'late' WHERE n = 1")?;
    let late = "SELECT COUNT(*) FROM orders WHERE word = 'late'";
    assert_eq!(there(late)?.trim(), "0", "RDS stands still");
    // Whatever else was done is as it should be.
    let on = run("mysql-to-rds.yml")?;
    assert_eq!(changed_tasks(&on), only);
    for secret in [MASTER, "never-printed"] {
        ensure!(
            ![&first, &stopped, &on].iter().any(|it| it.contains(secret)),
            "{secret} was printed"
        );
    }

    step("RDS takes over, and the site follows it");
    run("mysql-from-rds.yml")?;
    assert_eq!(there(late)?.trim(), "1", "RDS has what it missed");
    let lost = site.run(&line("mysql-to-rds.yml -e rds_state=stopped"))?;
    // It is printed in lines of a certain length.
    let words = String::from_utf8_lossy(&lost.stdout);
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        !lost.status.success()
            && words.contains("there is none: ")
            && words.contains("mysql-from-rds.yml -e rds_return=true"),
        "without a member that takes writes: {words}"
    );
    assert_eq!(there("SHOW REPLICA STATUS")?, "", "RDS follows nobody");
    there(&insert(1001, 1100))?;
    there(
        "CREATE TABLE mysql.rds_heartbeat2 (id INT PRIMARY KEY); INSERT INTO mysql.rds_heartbeat2 VALUES (1)",
    )?;

    step("the writes come home");
    run("mysql-from-rds.yml -e rds_return=true")?;
    here(&insert(1101, 1101))?;
    ensure!(here(rows)?.starts_with("1101\t"), "{}", here(rows)?);
    assert_eq!(
        here("SHOW TABLES FROM mysql LIKE 'rds%'")?,
        "",
        "RDS's housekeeping stays there"
    );
    Ok(())
}

/// A stand-in of Amazon's API, from PyPI, in an environment of its own beside the build.
struct Amazon {
    server: std::process::Child,
    port: u16,
}

impl Amazon {
    fn start() -> Result<Self> {
        let root = ondol_tests::site::repository();
        let home = root.join("target/moto");
        let list = root.join("tests/moto.txt");
        let text = std::fs::read_to_string(&list).context("read what the stand-in is made of")?;
        let stamp = home.join("made");
        if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&text) {
            let script = r#"rm -rf "$1"; python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2" && cp "$2" "$1/made""#;
            let made = Command::new("sh")
                .args(["-ec", script, "sh"])
                .args([&home, &list])
                .output()
                .context("make an environment for the stand-in of Amazon's API")?;
            ensure!(
                made.status.success(),
                "make an environment for the stand-in of Amazon's API: {}",
                String::from_utf8_lossy(&made.stderr)
            );
        }
        // Free a moment ago; whoever takes it meanwhile makes the start fail, and says so.
        let port = TcpListener::bind("127.0.0.1:0")
            .context("find a port")?
            .local_addr()
            .context("find a port")?
            .port();
        let server = Command::new(home.join("bin/moto_server"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the stand-in of Amazon's API")?;
        let mut amazon = Self { server, port };
        let deadline = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(
                amazon.server.try_wait()?.is_none() && Instant::now() < deadline,
                "the stand-in of Amazon's API does not start"
            );
            sleep(Duration::from_millis(100));
        }
        Ok(amazon)
    }
}

impl Drop for Amazon {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
