#!/usr/bin/env bash
# install | version | test [JUnit class, e.g. esker.AdminTest …]; called by ../run.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
here="$clients_dir/java"
home="$cache/java-client-$(content_key "$here/pom.xml")"
classes="$home/classes-$(content_key "$here"/esker/*.java)"
case $1 in
    install)
        command -v javac >/dev/null || apt_install default-jdk-headless
        command -v mvn >/dev/null || apt_install maven
        if [ ! -e "$home/complete" ]; then
            rm -rf "$home"; mkdir -p "$home"
            mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$home/lib" >&2 \
                || die "Maven could not fetch what $here/pom.xml names"
            touch "$home/complete"
        fi
        if [ ! -d "$classes" ]; then
            sweep 'classes-*'
            rm -rf "$classes.part"
            javac -Xlint:all,-processing -Werror -d "$classes.part" -cp "$home/lib/*" "$here"/esker/*.java
            mv "$classes.part" "$classes"
        fi
        touch "$home" "$classes"
        ;;
    version) basename "$home"/lib/kafka-clients-*.jar .jar ;;
    test)
        [ -d "$classes" ] || "$here/run.sh" install
        export ESKER_BROKER_SCRIPT="$clients_dir/broker.py"
        select=(--scan-classpath "$classes")
        [ $# -eq 1 ] || { select=(); for name in "${@:2}"; do case $name in *'#'*) select+=(-m "$name") ;; *) select+=(-c "$name") ;; esac; done; }
        exec java -Xmx512m -cp "$classes:$home/lib/*" org.junit.platform.console.ConsoleLauncher execute \
            --disable-banner --disable-ansi-colors --details=tree --fail-if-no-tests "${select[@]}"
        ;;
esac
