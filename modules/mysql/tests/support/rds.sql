-- What RDS for MySQL 8.4 and newer offers its master user, as far as the documentation says what it does, and the master user's privileges: a
-- stand-in for tests. None of the procedures writes a transaction of its own. By its parameter group, RDS leaves out what a source says about
-- accounts, and lets a user who may not do everything make triggers.
SET sql_log_bin = OFF; USE mysql;
CHANGE REPLICATION FILTER REPLICATE_WILD_IGNORE_TABLE = ('mysql.%');
SET GLOBAL log_bin_trust_function_creators = ON;
DELIMITER //
CREATE PROCEDURE rds_set_external_source_with_auto_position(host VARCHAR(255), port INT, user VARCHAR(32), password VARCHAR(255), tls INT, delay INT)
BEGIN
  SET @change = CONCAT('CHANGE REPLICATION SOURCE TO SOURCE_HOST = ', QUOTE(host), ', SOURCE_PORT = ', port, ', SOURCE_USER = ', QUOTE(user),
    ', SOURCE_PASSWORD = ', QUOTE(password), ', SOURCE_SSL = ', tls, ', SOURCE_DELAY = ', delay, ', SOURCE_AUTO_POSITION = 1');
  PREPARE change_source FROM @change; EXECUTE change_source; DEALLOCATE PREPARE change_source; SET @change = NULL;
END//
CREATE PROCEDURE rds_set_external_source_gtid_purged(server_uuid VARCHAR(36), start_pos BIGINT, end_pos BIGINT)
BEGIN
  IF server_uuid = @@GLOBAL.server_uuid THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'The GTID set belongs to this instance';
  END IF;
  SET GLOBAL gtid_purged = CONCAT('+', server_uuid, ':', start_pos, '-', end_pos);
END//
CREATE PROCEDURE rds_start_replication() BEGIN START REPLICA; SELECT 'Replica running normally.' AS Message; END//
CREATE PROCEDURE rds_stop_replication() BEGIN STOP REPLICA; SELECT 'Replica is down or disabled.' AS Message; END//
CREATE PROCEDURE rds_reset_external_source() BEGIN RESET REPLICA ALL; SELECT 'message' AS Message; END//
DELIMITER ;
CREATE USER admin IDENTIFIED BY 'master' REQUIRE SSL;
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER, SHOW DATABASES, CREATE TEMPORARY TABLES, LOCK TABLES,
  EXECUTE, REPLICATION SLAVE, REPLICATION CLIENT, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER,
  CONNECTION_ADMIN ON *.* TO admin WITH GRANT OPTION;
