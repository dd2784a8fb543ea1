import React from 'react';
import { CommandIDs } from '../../commands';
import { CommandButton } from '../../components/button';
import { Meter } from '../../components/meter';
import { StateDot } from '../../components/state';
import type { ISandbox, Verb } from '../../tokens';
import { bytes, nameOf } from '../../words';
import type { IPanelContext } from '../section';
import type { NotebookModel } from './model';
import { PoolMeters } from './pool';

interface IProps {
  readonly model: NotebookModel;
  readonly context: IPanelContext;
}

export function NotebookBody({ model, context }: IProps): React.ReactElement {
  const { trans } = context;
  const { status } = model;
  switch (status.kind) {
    case 'none':
      return (
        <p className="jp-VSandbox-empty">
          {trans.__(
            'The notebook in front does not run in a sandbox. Pick a kernel whose name ends in “(sandbox)”.'
          )}
        </p>
      );
    case 'asking':
      return <p className="jp-VSandbox-empty">…</p>;
    case 'unreachable':
    case 'failed':
      return (
        <p className="jp-VSandbox-empty">
          {trans.__('The state of this machine is not known.')}
        </p>
      );
    case 'known':
      return status.sandbox ? (
        <Machine
          sandbox={status.sandbox}
          busy={status.busy}
          model={model}
          context={context}
          title={status.title}
        />
      ) : (
        <p className="jp-VSandbox-empty">
          {trans.__(
            'No machine serves this kernel: it has ended. Restart the kernel to get one.'
          )}
        </p>
      );
  }
}

function Machine(
  props: IProps & {
    readonly sandbox: ISandbox;
    readonly busy: readonly Verb[];
    readonly title: string;
  }
): React.ReactElement {
  const { sandbox, busy, context } = props;
  const { commands, store, trans } = context;
  const args = { sandbox: sandbox.id };
  const button = (id: string, label: string) =>
    commands.isEnabled(id, args) ? (
      <CommandButton commands={commands} id={id} args={args} label={label} />
    ) : null;
  const origin = store.sandboxes.get(sandbox.origin);
  return (
    <div
      className="jp-VSandbox-machine"
      data-vsandbox="machine"
      data-sandbox={sandbox.id}
      data-state={sandbox.state}
    >
      <div className="jp-VSandbox-machineTitle">
        <strong title={sandbox.runtime}>{props.title}</strong>
        <StateDot state={sandbox.state} busy={busy} trans={trans} />
      </div>
      <div className="jp-VSandbox-facts">
        {nameOf(sandbox)} · {sandbox.driver}
        {sandbox.accelerator ? ` · ${sandbox.accelerator}` : ''}
        {origin ? ` · ${trans.__('fork of %1', nameOf(origin))}` : ''}
      </div>
      <div className="jp-VSandbox-buttons">
        {button(CommandIDs.wake, trans.__('Wake'))}
        {button(CommandIDs.start, trans.__('Start'))}
        {button(CommandIDs.hibernate, trans.__('Hibernate'))}
        {button(CommandIDs.tryUpgrade, trans.__('Try an Upgrade…'))}
        {button(CommandIDs.promote, trans.__('Promote…'))}
        {button(CommandIDs.reset, trans.__('Reset…'))}
      </div>
      {sandbox.emulated ? (
        <p
          className="jp-VSandbox-warning"
          title={trans.__(
            'This host has no hardware virtualization that works, so the machine’s code is translated in software.'
          )}
        >
          {trans.__(
            'Emulated: code runs about ten times slower, and the machine is no security boundary.'
          )}
        </p>
      ) : null}
      <Meters {...props} />
    </div>
  );
}

function Meters({
  sandbox,
  model,
  context: { trans }
}: IProps & { readonly sandbox: ISandbox }): React.ReactElement {
  const { usage, shape, history } = sandbox;
  const { pool } = model;
  return (
    <div className="jp-VSandbox-meters">
      {usage.memory > 0 ? (
        <>
          <Meter
            label={trans.__('Memory')}
            value={usage.memory}
            max={shape.memory}
            scarce
            text={trans.__(
              '%1 of %2',
              bytes(usage.memory),
              bytes(shape.memory)
            )}
          />
          {usage.cpu === null ? null : (
            <Meter
              label={trans.__('CPU')}
              value={usage.cpu}
              max={shape.vcpus}
              text={trans._n(
                '%2 % of %1 core',
                '%2 % of %1 cores',
                shape.vcpus,
                Math.round((100 * usage.cpu) / shape.vcpus)
              )}
            />
          )}
        </>
      ) : null}
      <Meter
        label={trans.__('Disk')}
        value={usage.disk}
        max={Math.max(usage.disk + history.bytes, 1)}
        text={trans.__(
          '%1 + %2 of history',
          bytes(usage.disk),
          bytes(history.bytes)
        )}
      />
      {pool ? <PoolMeters pool={pool} trans={trans} /> : null}
    </div>
  );
}
