# Runs RabbitMQ in a private view of the file system, where it and Erlang exist.
# Called in new mount and process namespaces: what it starts beside itself (epmd) ends with it.
# Arguments: where the package was unpacked, the folder of this run, address and port.
set -e
unpacked=$1
folder=$2
address=$3
port=$4
mkdir -p "$folder/data" "$folder/log"
if [ -d "$unpacked/usr" ]; then
    mount -t overlay overlay -o "lowerdir=$unpacked/usr:/usr" /usr
    machine=$(uname -m)
    LD_LIBRARY_PATH=$unpacked/usr/lib/$machine-linux-gnu:$unpacked/lib/$machine-linux-gnu
    export LD_LIBRARY_PATH
fi
: >"$folder/plugins"
cat >"$folder/rabbitmq.conf" <<CONF
listeners.tcp.1 = $address:$port
log.console = true
log.console.level = warning
CONF
# With a certificate in the folder it speaks TLS as well.
if [ -e "$folder/certificate.pem" ]; then
    cat >>"$folder/rabbitmq.conf" <<CONF
listeners.ssl.1 = $address:$((port + 3))
ssl_options.certfile = $folder/certificate.pem
ssl_options.keyfile = $folder/key.pem
ssl_options.verify = verify_none
CONF
fi
interface=$(echo "$address" | tr . ,)
HOME=$folder
RABBITMQ_CONFIG_FILE=$folder/rabbitmq.conf
RABBITMQ_CONF_ENV_FILE=/dev/null
RABBITMQ_ENABLED_PLUGINS_FILE=$folder/plugins
RABBITMQ_LOG_BASE=$folder/log
RABBITMQ_LOGS=-
RABBITMQ_MNESIA_BASE=$folder/data
RABBITMQ_NODENAME=rabbit-$$-$(echo "$address" | tr . -)@localhost
RABBITMQ_DIST_PORT=$((port + 2))
RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {$interface}"
ERL_EPMD_ADDRESS=$address
ERL_EPMD_PORT=$((port + 1))
export HOME RABBITMQ_CONFIG_FILE RABBITMQ_CONF_ENV_FILE RABBITMQ_ENABLED_PLUGINS_FILE RABBITMQ_LOG_BASE RABBITMQ_LOGS
export RABBITMQ_MNESIA_BASE RABBITMQ_NODENAME RABBITMQ_DIST_PORT RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS
export ERL_EPMD_ADDRESS ERL_EPMD_PORT
exec "$(echo /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server)"
