import type { LabIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import React from 'react';

export interface ICommandButtonProps {
  readonly commands: CommandRegistry;
  readonly id: string;
  readonly args?: ReadonlyPartialJSONObject;
  /** Shown in place of the text. */
  readonly icon?: LabIcon;
  readonly label?: string;
  /** What it is called where it has no text; the command's caption else. */
  readonly title?: string;
  readonly className?: string;
}

/**
 * A button that runs a command; it is off where the command is.
 */
export function CommandButton(props: ICommandButtonProps): React.ReactElement {
  const { commands, id, icon, className } = props;
  const args = props.args ?? {};
  const title = props.title ?? (commands.caption(id, args) || props.label);
  return (
    <button
      type="button"
      className={`jp-VSandbox-button ${className ?? ''}`}
      title={title}
      aria-label={icon ? title : undefined}
      disabled={!commands.isEnabled(id, args)}
      onClick={event => {
        event.stopPropagation();
        void commands.execute(id, args);
      }}
    >
      {icon ? <icon.react tag="span" width="16px" height="16px" /> : null}
      {props.label ? <span>{props.label}</span> : null}
    </button>
  );
}
