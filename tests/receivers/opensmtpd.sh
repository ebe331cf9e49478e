# Runs OpenSMTPD in a private view of the file system, where it and its users exist.
# Called in a new mount namespace. Arguments: where the package was unpacked, the folder of this run.
set -e
unpacked=$1
folder=$2
mkdir -p "$folder/view"
mount -t tmpfs tmpfs "$folder/view"
for part in etc var; do
    mkdir "$folder/view/$part" "$folder/view/$part.work"
    mount -t overlay overlay \
        -o "lowerdir=/$part,upperdir=$folder/view/$part,workdir=$folder/view/$part.work" "/$part"
done
# Its control socket lies here: one for each.
mount -t tmpfs tmpfs /run
if [ -d "$unpacked/usr" ]; then
    mount -t overlay overlay -o "lowerdir=$unpacked/usr:/usr" /usr
    machine=$(uname -m)
    LD_LIBRARY_PATH=$unpacked/usr/lib/$machine-linux-gnu:$unpacked/lib/$machine-linux-gnu
    export LD_LIBRARY_PATH
fi
cat >>/etc/passwd <<USERS
opensmtpd:x:64901:64901::/var/lib/opensmtpd/empty:/usr/sbin/nologin
opensmtpq:x:64902:64902::/var/lib/opensmtpd/empty:/usr/sbin/nologin
receiver:x:64903:64903::$folder/home:/bin/sh
USERS
cat >>/etc/group <<GROUPS
opensmtpd:x:64901:
opensmtpq:x:64902:
receiver:x:64903:
GROUPS
# The system may have these users already, with other numbers: the first line of a name counts.
mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd "$folder/home" "$folder/mail"
chmod 711 /var/spool/smtpd
chmod 755 "$folder"
chown receiver "$folder/home" "$folder/mail"
echo mx.opensmtpd.test >/etc/mailname
exec /usr/sbin/smtpd -d -f "$folder/smtpd.conf"
