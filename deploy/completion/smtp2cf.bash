_smtp2cf_completion() {
    local IFS=$'
'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \
                   COMP_CWORD=$COMP_CWORD \
                   _SMTP2CF_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _smtp2cf_completion smtp2cf
